"""Watermarks know how many frames their lane held when its gateway connected"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("watermark") as table:
        table.add_column(sa.Column("announced", sa.BigInteger(), nullable=False, server_default="0"))


def downgrade() -> None:
    with op.batch_alter_table("watermark") as table:
        table.drop_column("announced")
