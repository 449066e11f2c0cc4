"""Alembic environment of a host whose `alembic upgrade heads` migrates llmstack's tables as well."""

from __future__ import annotations

import asyncio
import os

import shop_models
from alembic import context
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool


def run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        # The host's models alone, and no `include_schemas`: autogenerate then neither sees nor drops
        # llmstack's tables, which are in a schema of their own. A host that does include schemas leaves
        # this one out with `include_name`. Models refer to llmstack's tables in its default schema; with
        # another `llmstack_schema`, autogenerate would report the foreign keys to them as changed.
        target_metadata=shop_models.ShopBase.metadata,
        # Where llmstack's revisions put their tables, whatever search path the host's own revisions run with.
        llmstack_schema="llmstack",
        # The revisions of both go into the host's version table. So open the stack with `migrate=False`:
        # its own migrations would find no record in the schema, and say so.
    )
    with context.begin_transaction():
        context.run_migrations()


async def connect() -> None:
    engine = create_async_engine(os.environ["SHOP_DATABASE_URL"], poolclass=NullPool)
    # `begin` rather than `connect`: Alembic's own transaction ends inside it, and it commits.
    async with engine.begin() as connection:
        await connection.run_sync(run)
    await engine.dispose()


asyncio.run(connect())
