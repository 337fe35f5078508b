"""Brings the metadata database to the schema this version needs."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from cloud.foundation.db import Database
from protocols.errors import Reason, Refused

MIGRATIONS = Path(__file__).parent / "migrations"


def upgrade(database: Database) -> None:
    """Run the missing migrations, each in a transaction. Raises Refused when the database is of a newer version of the platform."""
    configuration = configuration_for(database)
    script = ScriptDirectory.from_config(configuration)
    with database.engine.connect() as connection:
        present = MigrationContext.configure(connection).get_current_revision()
    if present is not None and present not in {revision.revision for revision in script.walk_revisions()}:
        message = f"the database is at revision {present}, which this version does not know; start the version that wrote it"
        raise Refused(Reason.BAD_CONFIGURATION, message)
    if present != script.get_current_head():
        command.upgrade(configuration, "head")


def configuration_for(database: Database) -> Config:
    configuration = Config(attributes={"engine": database.engine})
    configuration.set_main_option("script_location", str(MIGRATIONS))
    configuration.set_main_option("path_separator", "os")
    return configuration
