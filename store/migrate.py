"""Brings a database to the schema of this version, one process at a time."""

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.exc import OperationalError

from store.database import DatabaseError, driver_url

LOCK_KEY = 7_381_001


def upgrade(url: str) -> None:
    """Applies every missing migration under an advisory lock.

    Raises DatabaseError("schema_too_new") where the database was made by a newer Chorus, and
    ("database_unreachable") where it does not answer.
    """
    config = _config()
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    engine = sa.create_engine(driver_url(url), poolclass=sa.NullPool)
    try:
        with engine.connect() as connection:
            connection.execute(sa.text("SELECT pg_advisory_lock(:key)"), {"key": LOCK_KEY})
            connection.commit()
            current = MigrationContext.configure(connection).get_current_revision()
            connection.rollback()
            if current is not None and current not in known:
                raise DatabaseError(
                    "schema_too_new",
                    f"The database has schema {current}, which this version of Chorus does not know: "
                    "it was made by a newer one. Update Chorus, or name another database.",
                )
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            connection.commit()
    except OperationalError as error:
        reason = str(error.orig).strip().splitlines()[0]
        raise DatabaseError("database_unreachable", f"PostgreSQL does not answer: {reason}") from error
    finally:
        engine.dispose()


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config
