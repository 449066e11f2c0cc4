"""What Alembic compares: our models in one schema, without what services create at run time."""

from __future__ import annotations

import importlib
import re
from typing import Any

from sqlalchemy import MetaData

from .base import Base

MODULES = {"kernel": "db", "embeddings": "embeddings", "documents": "documents"}
"""The branches, lowest first, and the packages that hold their models and revisions."""

_RUN_TIME = re.compile(r"^ix_\w+_s\d+(_p\d+)?$|_p\d\d$")


def target_metadata(schema: str) -> MetaData:
    """A copy of our metadata in the real schema, which is what reflection finds there."""
    # By name: the modules are above this layer, and their tables register themselves when imported.
    for package in MODULES.values():
        importlib.import_module(f"llmstack.{package}.models")
    metadata = MetaData(naming_convention=Base.metadata.naming_convention)
    for table in Base.metadata.sorted_tables:
        table.to_metadata(metadata, schema=schema, referred_schema_fn=lambda *_: schema)
    return metadata


def include_object(
    item: Any, name: str | None, type_: str, reflected: bool, compare_to: Any | None
) -> bool:
    """Leave out partitions and embedding indexes; hosts that share our schema can chain it."""
    return not (reflected and compare_to is None and name is not None and _RUN_TIME.search(name))


def configure_options(schema: str) -> dict[str, Any]:
    """Arguments for `context.configure` that limit Alembic to one schema."""

    def include_name(name: str | None, type_: str, parents: Any) -> bool:
        return name == schema if type_ == "schema" else True

    return {
        "target_metadata": target_metadata(schema),
        "version_table_schema": schema,
        "include_schemas": True,
        "include_name": include_name,
        "include_object": include_object,
        "compare_type": True,
    }
