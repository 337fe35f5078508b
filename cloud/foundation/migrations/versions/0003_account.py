"""Watermarks count the readings behind them, for the account of a gateway"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("watermark") as table:
        table.add_column(sa.Column("readings", sa.BigInteger(), nullable=False, server_default="0"))
        table.add_column(sa.Column("in_gaps", sa.BigInteger(), nullable=False, server_default="0"))


def downgrade() -> None:
    with op.batch_alter_table("watermark") as table:
        table.drop_column("in_gaps")
        table.drop_column("readings")
