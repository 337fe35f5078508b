"""What Alembic runs for each command. The caller hands over an engine; nothing is read from a file or the environment."""

from alembic import context
from sqlalchemy.engine import Connection, Engine

from cloud.foundation.db import Model


def run(connection: Connection) -> None:
    # SQLite cannot alter most things in place: batch mode copies the table instead.
    context.configure(connection=connection, target_metadata=Model.metadata, render_as_batch=connection.dialect.name == "sqlite")
    with context.begin_transaction():
        context.run_migrations()


if hasattr(context, "config"):  # not when something merely imports every module
    engine: Engine = context.config.attributes["engine"]
    with engine.connect() as connection:
        run(connection)
