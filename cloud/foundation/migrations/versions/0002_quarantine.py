"""Quarantine: how often, from where, and what became of an entry"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("quarantine") as table:
        table.add_column(sa.Column("count", sa.BigInteger(), nullable=False, server_default="1"))
        table.add_column(sa.Column("last_ms", sa.BigInteger(), nullable=False, server_default="0"))
        table.add_column(sa.Column("address", sa.String(length=64), nullable=False, server_default=""))
        table.add_column(sa.Column("replayable", sa.Boolean(), nullable=False, server_default=sa.true()))
        table.add_column(sa.Column("state", sa.String(length=16), nullable=False, server_default="held"))
        table.add_column(sa.Column("resolved_ms", sa.BigInteger(), nullable=True))
        table.add_column(sa.Column("resolved_by", sa.String(length=64), nullable=True))
        table.add_column(sa.Column("replay_of", sa.BigInteger(), nullable=True))
        table.drop_index("ix_quarantine_tenant_reason")
        table.create_index("ix_quarantine_tenant_state", ["tenant_id", "state", "reason"])
        table.create_index("ix_quarantine_device", ["product_key", "device_name", "state"])


def downgrade() -> None:
    with op.batch_alter_table("quarantine") as table:
        table.drop_index("ix_quarantine_device")
        table.drop_index("ix_quarantine_tenant_state")
        table.create_index("ix_quarantine_tenant_reason", ["tenant_id", "reason"])
        for name in ("replay_of", "resolved_by", "resolved_ms", "state", "replayable", "address", "last_ms", "count"):
            table.drop_column(name)
