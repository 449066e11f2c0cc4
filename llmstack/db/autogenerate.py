"""What Alembic compares: our models in one schema, without what others keep there."""

from __future__ import annotations

import importlib
import re
from typing import Any

from sqlalchemy import MetaData
from sqlalchemy.schema import BLANK_SCHEMA

from .base import Base
from .modules import MODULES

_RUN_TIME = re.compile(r"^ix_\w+_s\d+(_new|_old)?(_p\d+)?$")


def target_metadata(schema: str | None) -> MetaData:
    """A copy of our metadata as reflection sees it; a schema of None is the connection's default."""
    # By name: the modules are above this layer, and their tables register themselves when imported.
    for package in MODULES.values():
        importlib.import_module(f"llmstack.{package}.models")
    metadata = MetaData(naming_convention=Base.metadata.naming_convention)
    # The stubs know nothing of tables without a schema.
    place: Any = schema
    referred: Any = BLANK_SCHEMA if schema is None else schema
    for table in Base.metadata.sorted_tables:
        table.to_metadata(metadata, schema=place, referred_schema_fn=lambda *_: referred)
    return metadata


def include_object(item: Any, name: str | None, type_: str, reflected: bool, compare_to: Any | None) -> bool:
    """Leave out tables that no model of ours declares (a host's, partitions) and the embedding indexes."""
    if not reflected or compare_to is not None:
        return True
    return type_ != "table" and not (type_ == "index" and name is not None and _RUN_TIME.search(name))


def configure_options(schema: str, *, default_schema: str | None = None) -> dict[str, Any]:
    """Arguments for `context.configure` that limit Alembic to one schema.

    `default_schema` is the connection's own: Alembic sees its tables without a schema.
    """

    def include_name(name: str | None, type_: str, parents: Any) -> bool:
        return name == schema if type_ == "schema" else True

    unqualified = schema == default_schema
    return {
        "target_metadata": target_metadata(None if unqualified else schema),
        "version_table_schema": schema,
        "include_schemas": not unqualified,
        "include_name": None if unqualified else include_name,
        "include_object": include_object,
        "compare_type": True,
    }
