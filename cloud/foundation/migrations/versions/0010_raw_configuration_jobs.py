"""Commands as raw bytes; configurations, log switches, jobs and shown tokens"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def _id() -> sa.types.TypeEngine[int]:
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.add_column("command", sa.Column("raw", sa.LargeBinary(), nullable=True))
    op.create_table(
        "log_switch",
        sa.Column("device_id", _id(), autoincrement=False, nullable=False),
        sa.Column("mode", sa.Integer(), nullable=False),
        sa.Column("time_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["device_id"], ["device.id"], name=op.f("fk_log_switch_device_id_device")),
        sa.PrimaryKeyConstraint("device_id", name=op.f("pk_log_switch")),
    )
    op.create_table(
        "shown_token",
        sa.Column("device_id", _id(), autoincrement=False, nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("time_ms", sa.BigInteger(), nullable=False),
        sa.Column("tenant_id", _id(), nullable=False),
        sa.ForeignKeyConstraint(["device_id"], ["device.id"], name=op.f("fk_shown_token_device_id_device")),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenant.id"], name=op.f("fk_shown_token_tenant_id_tenant")),
        sa.PrimaryKeyConstraint("device_id", name=op.f("pk_shown_token")),
    )
    op.create_index(op.f("ix_shown_token_tenant_id"), "shown_token", ["tenant_id"])
    op.create_index("ix_shown_token_digest", "shown_token", ["digest"])
    op.create_table(
        "configuration",
        sa.Column("id", _id(), nullable=False),
        sa.Column("product_key", sa.String(length=32), nullable=False),
        sa.Column("artefact_id", _id(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("token", sa.String(length=64), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("updated_ms", sa.BigInteger(), nullable=False),
        sa.Column("tenant_id", _id(), nullable=False),
        sa.ForeignKeyConstraint(["artefact_id"], ["artefact.id"], name=op.f("fk_configuration_artefact_id_artefact")),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenant.id"], name=op.f("fk_configuration_tenant_id_tenant")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_configuration")),
        sa.UniqueConstraint("product_key", name=op.f("uq_configuration_product_key")),
        sa.UniqueConstraint("token", name=op.f("uq_configuration_token")),
    )
    op.create_index(op.f("ix_configuration_tenant_id"), "configuration", ["tenant_id"])
    op.create_table(
        "job",
        sa.Column("id", _id(), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("product_key", sa.String(length=32), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.Column("timeout_s", sa.Integer(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("created_by", sa.String(length=64), nullable=False),
        sa.Column("tenant_id", _id(), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenant.id"], name=op.f("fk_job_tenant_id_tenant")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job")),
    )
    op.create_index(op.f("ix_job_tenant_id"), "job", ["tenant_id"])
    op.create_table(
        "job_task",
        sa.Column("id", _id(), nullable=False),
        sa.Column("job_id", _id(), nullable=False),
        sa.Column("device_id", _id(), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("progress", sa.Integer(), nullable=False),
        sa.Column("details", sa.Text(), nullable=False),
        sa.Column("due_ms", sa.BigInteger(), nullable=False),
        sa.Column("updated_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["device_id"], ["device.id"], name=op.f("fk_job_task_device_id_device")),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_job_task_job_id_job")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job_task")),
        sa.UniqueConstraint("job_id", "device_id", name=op.f("uq_job_task_job_id_device_id")),
    )
    op.create_index("ix_job_task_device_id_status", "job_task", ["device_id", "status"])


def downgrade() -> None:
    for name in ("job_task", "job", "configuration", "shown_token", "log_switch"):
        op.drop_table(name)
    with op.batch_alter_table("command") as table:
        table.drop_column("raw")
