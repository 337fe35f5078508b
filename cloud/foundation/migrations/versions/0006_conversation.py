"""What devices and applications say to each other: shadow, tags, topology, logs, lifecycle, audit"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def _id() -> sa.types.TypeEngine[int]:
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    with op.batch_alter_table("device") as table:
        table.add_column(sa.Column("state", sa.String(length=16), nullable=False, server_default="manufactured"))
        table.add_column(sa.Column("state_before", sa.String(length=16), nullable=True))
        table.add_column(sa.Column("activated_ms", sa.BigInteger(), nullable=True))
        table.add_column(sa.Column("nickname", sa.String(length=128), nullable=True))
    # Who connected before there were states is activated; who stands on a site is claimed; who was locked out stays so.
    op.execute("UPDATE device SET activated_ms = (SELECT since_ms FROM presence WHERE presence.device_id = device.id)")
    op.execute("UPDATE device SET state = 'activated' WHERE activated_ms IS NOT NULL")
    op.execute("UPDATE device SET state = 'claimed' WHERE activated_ms IS NOT NULL AND site_id IS NOT NULL")
    op.execute("UPDATE device SET state_before = state, state = 'disabled' WHERE NOT enabled")
    with op.batch_alter_table("command") as table:
        table.add_column(sa.Column("is_call", sa.Boolean(), nullable=False, server_default=sa.false()))
        table.add_column(sa.Column("requested_by", sa.String(length=64), nullable=False, server_default=""))
        table.add_column(sa.Column("sent_ms", sa.BigInteger(), nullable=True))
    op.create_index("ix_command_state_id", "command", ["state", "id"])
    op.create_table(
        "shadow",
        sa.Column("device_id", _id(), autoincrement=False, nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("spoken", sa.Boolean(), nullable=False),
        sa.Column("updated_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["device_id"], ["device.id"], name=op.f("fk_shadow_device_id_device")),
        sa.PrimaryKeyConstraint("device_id", name=op.f("pk_shadow")),
    )
    op.create_table(
        "desired",
        sa.Column("device_id", _id(), autoincrement=False, nullable=False),
        sa.Column("identifier", sa.String(length=64), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("time_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["device_id"], ["device.id"], name=op.f("fk_desired_device_id_device")),
        sa.PrimaryKeyConstraint("device_id", "identifier", name=op.f("pk_desired")),
    )
    op.create_table(
        "tag",
        sa.Column("device_id", _id(), autoincrement=False, nullable=False),
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("value", sa.String(length=1024), nullable=False),
        sa.Column("source", sa.String(length=8), nullable=False),
        sa.Column("time_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["device_id"], ["device.id"], name=op.f("fk_tag_device_id_device")),
        sa.PrimaryKeyConstraint("device_id", "key", name=op.f("pk_tag")),
    )
    op.create_index("ix_tag_key_value", "tag", ["key", "value"])
    op.create_table(
        "topology",
        sa.Column("device_id", _id(), autoincrement=False, nullable=False),
        sa.Column("gateway_id", _id(), nullable=False),
        sa.Column("since_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["device_id"], ["device.id"], name=op.f("fk_topology_device_id_device")),
        sa.ForeignKeyConstraint(["gateway_id"], ["device.id"], name=op.f("fk_topology_gateway_id_device")),
        sa.PrimaryKeyConstraint("device_id", name=op.f("pk_topology")),
    )
    op.create_index(op.f("ix_topology_gateway_id"), "topology", ["gateway_id"])
    op.create_table(
        "device_log",
        sa.Column("id", _id(), nullable=False),
        sa.Column("device_id", _id(), nullable=False),
        sa.Column("received_ms", sa.BigInteger(), nullable=False),
        sa.Column("time", sa.String(length=40), nullable=False),
        sa.Column("level", sa.String(length=8), nullable=False),
        sa.Column("module", sa.String(length=64), nullable=False),
        sa.Column("code", sa.String(length=64), nullable=False),
        sa.Column("trace", sa.String(length=128), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["device_id"], ["device.id"], name=op.f("fk_device_log_device_id_device")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_device_log")),
    )
    op.create_index("ix_device_log_device_id_id", "device_log", ["device_id", "id"])
    op.create_table(
        "device_group",
        sa.Column("id", _id(), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("tenant_id", _id(), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenant.id"], name=op.f("fk_device_group_tenant_id_tenant")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_device_group")),
        sa.UniqueConstraint("tenant_id", "name", name=op.f("uq_device_group_tenant_id_name")),
    )
    op.create_index(op.f("ix_device_group_tenant_id"), "device_group", ["tenant_id"])
    op.create_table(
        "device_group_member",
        sa.Column("group_id", _id(), autoincrement=False, nullable=False),
        sa.Column("device_id", _id(), autoincrement=False, nullable=False),
        sa.ForeignKeyConstraint(["device_id"], ["device.id"], name=op.f("fk_device_group_member_device_id_device")),
        sa.ForeignKeyConstraint(["group_id"], ["device_group.id"], name=op.f("fk_device_group_member_group_id_device_group")),
        sa.PrimaryKeyConstraint("group_id", "device_id", name=op.f("pk_device_group_member")),
    )
    op.create_index(op.f("ix_device_group_member_device_id"), "device_group_member", ["device_id"])
    op.create_table(
        "audit",
        sa.Column("id", _id(), nullable=False),
        sa.Column("time_ms", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.String(length=128), nullable=False),
        sa.Column("action", sa.String(length=64), nullable=False),
        sa.Column("subject", sa.String(length=128), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("tenant_id", _id(), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenant.id"], name=op.f("fk_audit_tenant_id_tenant")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
    )
    op.create_index(op.f("ix_audit_tenant_id"), "audit", ["tenant_id"])
    op.create_index("ix_audit_tenant_id_subject_id", "audit", ["tenant_id", "subject", "id"])


def downgrade() -> None:
    for name in ("audit", "device_group_member", "device_group", "device_log", "topology", "tag", "desired", "shadow"):
        op.drop_table(name)
    op.drop_index("ix_command_state_id", "command")
    with op.batch_alter_table("command") as table:
        for column in ("sent_ms", "requested_by", "is_call"):
            table.drop_column(column)
    op.execute("UPDATE device SET enabled = (state <> 'disabled' AND state <> 'retired')")
    with op.batch_alter_table("device") as table:
        for column in ("nickname", "activated_ms", "state_before", "state"):
            table.drop_column(column)
