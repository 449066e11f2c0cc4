"""Revisions: those that this code has, and those that a schema holds."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from ..errors import DatabaseNewer, MigrationError
from .modules import MODULES
from .schemas import qualified

VERSION_TABLE = "alembic_version"


@dataclass(frozen=True, slots=True)
class ModuleStatus:
    """Where one module stands in one schema; `pending` counts the revisions that are not applied."""

    module: str
    current: str | None
    head: str
    pending: int


def version_locations() -> list[str]:
    """The folders of our revisions, for a host's own `version_locations`."""
    package = Path(__file__).parent.parent
    return [str(package / folder / "migrations") for folder in MODULES.values()]


def alembic_config(*, output: TextIO | None = None) -> Config:
    """An Alembic configuration that works from a checkout and from a wheel alike."""
    config = Config(output_buffer=output, stdout=output or io.StringIO())
    config.set_main_option("script_location", str(Path(__file__).parent / "alembic_env").replace("%", "%%"))
    config.set_main_option("path_separator", "newline")
    config.set_main_option("version_locations", "\n".join(version_locations()).replace("%", "%%"))
    config.set_main_option("file_template", "%%(rev)s_%%(slug)s")
    return config


def scripts() -> ScriptDirectory:
    """Every revision of every module."""
    return ScriptDirectory.from_config(alembic_config())


async def applied_revisions(connection: AsyncConnection, schema: str) -> set[str]:
    """Every revision that the schema holds; raises DatabaseNewer for one that this code does not know."""
    recorded = await _recorded(connection, schema)
    directory = scripts()
    known = {revision.revision for revision in directory.walk_revisions()}
    ours = {revision for revision in recorded if revision.rpartition("_")[0] in MODULES}
    if unknown := sorted(ours - known):
        raise DatabaseNewer(
            f"schema {schema!r} holds {', '.join(unknown)}, which this version of llmstack does not know; "
            "upgrade the package before using this database"
        )
    return _lineage(directory, recorded & known)


async def refuse_foreign_history(connection: AsyncConnection, schema: str) -> None:
    """Refuse a schema whose tables or version table a host's own Alembic environment keeps."""
    recorded = await _recorded(connection, schema)
    known = {revision.revision for revision in scripts().walk_revisions()}
    if foreign := sorted(recorded - known):
        raise MigrationError(
            f"the version table of schema {schema!r} holds {', '.join(foreign)}, which are not llmstack's; "
            "run the migrations that it belongs to, or choose another schema"
        )
    table = qualified(schema, "corpus_statistics")
    if not recorded and await connection.scalar(text("SELECT to_regclass(:name)"), {"name": table}) is not None:
        raise MigrationError(
            f"schema {schema!r} holds llmstack's tables, but no record of their revisions; "
            "if a host's Alembic environment keeps them, run that, else record them with `alembic stamp`"
        )


def with_what_it_needs(target: str) -> tuple[str, ...]:
    """For the head of a module the heads of all that it stands on, too; any other target alone.

    Code calls the newest of what is below it, while a revision depends on no more than its tables do.
    """
    module, _, place = target.partition("@")
    if module not in MODULES or place != "head":
        return (target,)
    directory = scripts()
    needed = {revision.rpartition("_")[0] for revision in _lineage(directory, _heads(directory, target))}
    below = {
        f"{name}@head": _lineage(directory, _heads(directory, f"{name}@head")) for name in MODULES if name in needed
    }
    # Alembic refuses to be asked for what another one brings along.
    return tuple(one for one in below if not any(below[one] < others for others in below.values()))


def _heads(directory: ScriptDirectory, target: str) -> list[str]:
    return [revision.revision for revision in directory.get_revisions(target) if revision is not None]


def is_reached(targets: tuple[str, ...], applied: set[str]) -> bool:
    """Whether an upgrade to the targets would do nothing; False for relative ones such as `+1`."""
    directory = scripts()
    try:
        wanted = [revision.revision for revision in directory.get_revisions(targets) if revision is not None]
    except CommandError:
        return False
    return bool(wanted) and _lineage(directory, wanted) <= applied


def pending_modules(targets: tuple[str, ...], applied: set[str]) -> list[Any]:
    """The Python modules of the revisions up to the targets in branches of which nothing is applied; of `+1` none."""
    directory = scripts()
    begun = {revision.rpartition("_")[0] for revision in applied}
    try:
        wanted = [revision.revision for revision in directory.get_revisions(targets) if revision is not None]
    except CommandError:
        return []
    found = (directory.get_revision(one) for one in sorted(_lineage(directory, wanted)))
    return [one.module for one in found if one is not None and one.revision.rpartition("_")[0] not in begun]


def module_statuses(applied: set[str]) -> list[ModuleStatus]:
    """Where each module stands, lowest first."""
    directory = scripts()
    return [_module_status(directory, module, applied) for module in MODULES]


def _module_status(directory: ScriptDirectory, module: str, applied: set[str]) -> ModuleStatus:
    branch = [revision.revision for revision in directory.iterate_revisions(f"{module}@head", f"{module}@base")]
    ours = [revision for revision in branch if revision.startswith(f"{module}_")]
    done = [revision for revision in ours if revision in applied]
    return ModuleStatus(module=module, current=done[0] if done else None, head=ours[0], pending=len(ours) - len(done))


async def _recorded(connection: AsyncConnection, schema: str) -> set[str]:
    table = qualified(schema, VERSION_TABLE)
    if await connection.scalar(text("SELECT to_regclass(:name)"), {"name": table}) is None:
        return set()
    return set(await connection.scalars(text(f"SELECT version_num FROM {table}")))


def _lineage(directory: ScriptDirectory, revisions: Iterable[str]) -> set[str]:
    """The revisions and everything below them, along both `down_revision` and `depends_on`."""
    found: set[str] = set()
    pending = list(revisions)
    while pending:
        revision = directory.get_revision(pending.pop())
        if revision is None or revision.revision in found:
            continue
        found.add(revision.revision)
        for below in (revision.down_revision, revision.dependencies):
            pending.extend((below,) if isinstance(below, str) else below or ())
    return found
