"""Artefacts, firmware, its offers, and what devices run"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def _id() -> sa.types.TypeEngine[int]:
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "artefact",
        sa.Column("id", _id(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("md5", sa.String(length=32), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("tenant_id", _id(), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenant.id"], name=op.f("fk_artefact_tenant_id_tenant")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_artefact")),
        sa.UniqueConstraint("tenant_id", "sha256", name=op.f("uq_artefact_tenant_id_sha256")),
    )
    op.create_index(op.f("ix_artefact_tenant_id"), "artefact", ["tenant_id"])
    op.create_index(op.f("ix_artefact_sha256"), "artefact", ["sha256"])
    op.create_table(
        "firmware",
        sa.Column("id", _id(), nullable=False),
        sa.Column("product_key", sa.String(length=32), nullable=False),
        sa.Column("module", sa.String(length=64), nullable=False),
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.Column("artefact_id", _id(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("md5", sa.String(length=32), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("sign_method", sa.String(length=8), nullable=False),
        sa.Column("is_diff", sa.Boolean(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("tenant_id", _id(), nullable=False),
        sa.ForeignKeyConstraint(["artefact_id"], ["artefact.id"], name=op.f("fk_firmware_artefact_id_artefact")),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenant.id"], name=op.f("fk_firmware_tenant_id_tenant")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_firmware")),
        sa.UniqueConstraint("product_key", "module", "version", name=op.f("uq_firmware_product_key_module_version")),
    )
    op.create_index(op.f("ix_firmware_tenant_id"), "firmware", ["tenant_id"])
    op.create_table(
        "firmware_offer",
        sa.Column("id", _id(), nullable=False),
        sa.Column("firmware_id", _id(), nullable=False),
        sa.Column("device_id", _id(), nullable=False),
        sa.Column("token", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("detail", sa.String(length=512), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("updated_ms", sa.BigInteger(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("tenant_id", _id(), nullable=False),
        sa.ForeignKeyConstraint(["device_id"], ["device.id"], name=op.f("fk_firmware_offer_device_id_device")),
        sa.ForeignKeyConstraint(["firmware_id"], ["firmware.id"], name=op.f("fk_firmware_offer_firmware_id_firmware")),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenant.id"], name=op.f("fk_firmware_offer_tenant_id_tenant")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_firmware_offer")),
        sa.UniqueConstraint("firmware_id", "device_id", name=op.f("uq_firmware_offer_firmware_id_device_id")),
        sa.UniqueConstraint("token", name=op.f("uq_firmware_offer_token")),
    )
    op.create_index("ix_firmware_offer_device_id_state", "firmware_offer", ["device_id", "state"])
    op.create_index(op.f("ix_firmware_offer_tenant_id"), "firmware_offer", ["tenant_id"])
    op.create_table(
        "device_module",
        sa.Column("device_id", _id(), autoincrement=False, nullable=False),
        sa.Column("module", sa.String(length=64), nullable=False),
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.Column("time_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["device_id"], ["device.id"], name=op.f("fk_device_module_device_id_device")),
        sa.PrimaryKeyConstraint("device_id", "module", name=op.f("pk_device_module")),
    )


def downgrade() -> None:
    for name in ("device_module", "firmware_offer", "firmware", "artefact"):
        op.drop_table(name)
