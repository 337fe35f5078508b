"""Registration of products, further proofs of devices, certificate authorities of tenants"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "product_registration",
        sa.Column("product_key", sa.String(length=32), nullable=False),
        sa.Column("mode", sa.String(length=16), nullable=False),
        sa.Column("sealed_secret", sa.LargeBinary(), nullable=True),
        sa.Column("changed_ms", sa.BigInteger(), nullable=False),
        sa.Column("tenant_id", _Id, nullable=False),
        sa.ForeignKeyConstraint(["product_key"], ["product.product_key"], name=op.f("fk_product_registration_product_key_product")),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenant.id"], name=op.f("fk_product_registration_tenant_id_tenant")),
        sa.PrimaryKeyConstraint("product_key", name=op.f("pk_product_registration")),
    )
    op.create_index(op.f("ix_product_registration_tenant_id"), "product_registration", ["tenant_id"], unique=False)

    op.create_table(
        "device_identity",
        sa.Column("device_id", _Id, autoincrement=False, nullable=False),
        sa.Column("accepts", sa.String(length=16), nullable=False),
        sa.Column("sealed_previous", sa.LargeBinary(), nullable=True),
        sa.Column("previous_until_ms", sa.BigInteger(), nullable=True),
        sa.Column("registration", sa.String(length=16), nullable=True),
        sa.Column("registered_ms", sa.BigInteger(), nullable=True),
        sa.Column("token_client_id", sa.String(length=64), nullable=True),
        sa.Column("sealed_token", sa.LargeBinary(), nullable=True),
        sa.Column("tenant_id", _Id, nullable=False),
        sa.ForeignKeyConstraint(["device_id"], ["device.id"], name=op.f("fk_device_identity_device_id_device")),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenant.id"], name=op.f("fk_device_identity_tenant_id_tenant")),
        sa.PrimaryKeyConstraint("device_id", name=op.f("pk_device_identity")),
    )
    op.create_index(op.f("ix_device_identity_tenant_id"), "device_identity", ["tenant_id"], unique=False)

    op.create_table(
        "tenant_authority",
        sa.Column("id", _Id, nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("subject", sa.String(length=512), nullable=False),
        sa.Column("pem", sa.Text(), nullable=False),
        sa.Column("from_ms", sa.BigInteger(), nullable=False),
        sa.Column("to_ms", sa.BigInteger(), nullable=False),
        sa.Column("added_ms", sa.BigInteger(), nullable=False),
        sa.Column("retired_ms", sa.BigInteger(), nullable=True),
        sa.Column("tenant_id", _Id, nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenant.id"], name=op.f("fk_tenant_authority_tenant_id_tenant")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tenant_authority")),
        sa.UniqueConstraint("fingerprint", name=op.f("uq_tenant_authority_fingerprint")),
        sa.UniqueConstraint("subject", name=op.f("uq_tenant_authority_subject")),
    )
    op.create_index(op.f("ix_tenant_authority_tenant_id"), "tenant_authority", ["tenant_id"], unique=False)


def downgrade() -> None:
    op.drop_index(op.f("ix_tenant_authority_tenant_id"), table_name="tenant_authority")
    op.drop_table("tenant_authority")
    op.drop_index(op.f("ix_device_identity_tenant_id"), table_name="device_identity")
    op.drop_table("device_identity")
    op.drop_index(op.f("ix_product_registration_tenant_id"), table_name="product_registration")
    op.drop_table("product_registration")
