"""The account of a gateway by stretches of ten minutes"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "account_stretch",
        sa.Column("gateway_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False, autoincrement=False),
        sa.Column("buffer_id", sa.String(length=32), nullable=False),
        sa.Column("lane", sa.String(length=16), nullable=False),
        sa.Column("from_ms", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("delivered", sa.BigInteger(), nullable=False),
        sa.Column("in_gaps", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("gateway_id", "buffer_id", "lane", "from_ms", name=op.f("pk_account_stretch")),
    )


def downgrade() -> None:
    op.drop_table("account_stretch")
