"""Write a module's next revision: `python -m llmstack.db.new_revision documents "add language to chunks"`.

The models are compared with a scratch schema that is migrated to the heads and dropped afterwards: on
`LLMSTACK_DATABASE_URL`, or on an embedded server of a moment. Read what was written before you keep it.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import tempfile
from pathlib import Path
from typing import Any
from uuid import uuid4

from alembic import command
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from ..errors import ConfigurationError, LLMStackError
from ..settings import Settings
from . import embedded
from .base import Base
from .history import alembic_config, version_locations
from .migrate import upgrade
from .modules import MODULES
from .schemas import quote
from .urls import engine_arguments


def next_revision(module: str) -> tuple[str, Path]:
    """The id of the module's next revision, and the folder it belongs to."""
    if module not in MODULES:
        raise ConfigurationError(f"there is no module {module!r}; use one of {', '.join(MODULES)}")
    folder = Path(version_locations()[list(MODULES).index(module)])
    numbers = [int(path.name.split("_")[1]) for path in folder.glob(f"{module}_[0-9]*.py")]
    return f"{module}_{max(numbers, default=0) + 1:04d}", folder


async def write_revision(url: str, *, module: str, message: str, settings: Settings) -> Path:
    """Write the file and return its path; its body is what the module's tables lack, or `pass`."""
    revision, folder = next_revision(module)
    schema = f"revision_{uuid4().hex}"
    engine = _engine(url, settings, schema)
    try:
        await upgrade(engine, schema=schema, settings=settings)
        # A new engine asks anew which schema is the default one, and operations do not name that.
        async with _engine(url, settings, schema).connect() as connection:
            await connection.run_sync(_autogenerate, module, message, schema, settings)
    finally:
        async with engine.begin() as connection:
            await connection.exec_driver_sql(f"DROP SCHEMA IF EXISTS {quote(schema)} CASCADE")
    (path,) = folder.glob(f"{revision}_*.py")
    path.write_text(path.read_text().replace('"""', f'"""{module}: ', 1))
    return path


def _engine(url: str, settings: Settings, schema: str) -> AsyncEngine:
    target, arguments = engine_arguments(url, settings, pooled=False)
    search_path = f"{quote(schema)}, public, {quote(settings.extension_schema)}"
    arguments["connect_args"]["server_settings"]["search_path"] = search_path
    return create_async_engine(target, poolclass=NullPool, **arguments)


def _autogenerate(connection: Connection, module: str, message: str, schema: str, settings: Settings) -> None:
    package = f"llmstack.{MODULES[module]}."

    def keep_the_modules_own(_context: Any, _revision: Any, directives: list[Any]) -> None:
        # Not before: the models are imported when the comparison begins.
        mappers = [mapper for mapper in Base.registry.mappers if mapper.class_.__module__.startswith(package)]
        own = {table.name for mapper in mappers for table in mapper.tables}
        for side in (directives[0].upgrade_ops, directives[0].downgrade_ops):
            side.ops = [one for one in side.ops if one.table_name in own]

    config = alembic_config()
    config.attributes.update(connection=connection, schema=schema, settings=settings, command="revision")
    revision, folder = next_revision(module)
    command.revision(config, message, autogenerate=True, head=f"{module}@head", rev_id=revision,
                     version_path=str(folder), process_revision_directives=keep_the_modules_own)  # fmt: skip


def main(module: str, message: str) -> None:
    """Write the revision and print its path."""
    settings = Settings()
    with contextlib.ExitStack() as cleanup:
        try:
            next_revision(module)
            url = settings.database_url.get_secret_value() if settings.database_url else _momentary(cleanup)
            path = asyncio.run(write_revision(url, module=module, message=message, settings=settings))
        except LLMStackError as error:
            sys.exit(str(error))
    sys.stdout.write(f"{path}\n")


def _momentary(cleanup: contextlib.ExitStack) -> str:
    folder = cleanup.enter_context(tempfile.TemporaryDirectory(prefix="llmstack-revision-"))
    server = embedded.start(Path(folder) / "data", announce=False)
    cleanup.callback(server.release)
    return server.url


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit('usage: python -m llmstack.db.new_revision <module> "<verb> <object>"')
    main(*sys.argv[1:])
