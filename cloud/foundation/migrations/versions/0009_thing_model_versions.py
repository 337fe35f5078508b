"""Thing models in versions, products with more about them, and the answers to requests with an Idempotency-Key"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    big = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    with op.batch_alter_table("product") as table:
        table.add_column(sa.Column("node_type", sa.String(length=16), nullable=False, server_default="device"))
        table.add_column(sa.Column("description", sa.String(length=1024), nullable=False, server_default=""))
        table.add_column(sa.Column("category", sa.String(length=64), nullable=True))
        table.add_column(sa.Column("version", sa.Integer(), nullable=False, server_default="1"))
        table.add_column(sa.Column("revision", sa.Integer(), nullable=False, server_default="1"))
        table.add_column(sa.Column("updated_ms", sa.BigInteger(), nullable=False, server_default="0"))
    op.execute("UPDATE product SET updated_ms = created_ms")
    op.create_table(
        "thing_model_version",
        sa.Column("id", big, nullable=False),
        sa.Column("product_id", big, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("tsl", sa.Text(), nullable=False),
        sa.Column("note", sa.String(length=1024), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("created_by", sa.String(length=64), nullable=False),
        sa.Column("published_ms", sa.BigInteger(), nullable=True),
        sa.Column("published_by", sa.String(length=64), nullable=True),
        sa.Column("tenant_id", big, nullable=False),
        sa.ForeignKeyConstraint(["product_id"], ["product.id"], name=op.f("fk_thing_model_version_product_id_product")),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenant.id"], name=op.f("fk_thing_model_version_tenant_id_tenant")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_thing_model_version")),
        sa.UniqueConstraint("product_id", "number", name=op.f("uq_thing_model_version_product_id_number")),
    )
    op.create_index(op.f("ix_thing_model_version_tenant_id"), "thing_model_version", ["tenant_id"], unique=False)
    # What every product has now is its version 1, published when the product was made; nobody knows any more by whom.
    op.execute(
        "INSERT INTO thing_model_version"
        " (product_id, number, state, tsl, note, revision, created_ms, created_by, published_ms, published_by, tenant_id)"
        " SELECT id, 1, 'published', tsl, '', 1, created_ms, '', created_ms, '', tenant_id FROM product ORDER BY id"
    )
    op.create_table(
        "idempotency",
        sa.Column("id", big, nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("digest", sa.LargeBinary(length=32), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("answer", sa.LargeBinary(), nullable=True),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("tenant_id", big, nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenant.id"], name=op.f("fk_idempotency_tenant_id_tenant")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_idempotency")),
        sa.UniqueConstraint("tenant_id", "key", name=op.f("uq_idempotency_tenant_id_key")),
    )
    op.create_index(op.f("ix_idempotency_tenant_id"), "idempotency", ["tenant_id"], unique=False)
    op.create_index("ix_idempotency_created_ms", "idempotency", ["created_ms"], unique=False)


def downgrade() -> None:
    op.drop_table("idempotency")
    op.drop_table("thing_model_version")
    with op.batch_alter_table("product") as table:
        for name in ("updated_ms", "revision", "version", "category", "description", "node_type"):
            table.drop_column(name)
