"""Schema of the metadata database, step by step (Alembic)."""
