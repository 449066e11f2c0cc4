"""A hundred thousand messages, and the plans of the statements that the verbs send over them."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Iterator
from typing import Any

from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncSession

from llmstack.conversations import Message, ThreadSummary
from llmstack.embeddings import EmbeddingSpace
from llmstack.search import refresh_statistics
from llmstack.testing import servers

THREADS, MESSAGES, OF_BIG, OWNERS, LONG = 5_000, 100_000, 2_500, 40, 5_019
BIG, SMALL = "big", "small 1"
# Vectors are in partitions by owner, and one of a few rows is read as it is, as it should be.
WATCHED = ("threads", "messages", "thread_summaries")

# Ids grow with time, and messages lie in the order in which they were said.
# Half of the threads are those of one owner, the others of forty small ones, and the first thread is a long one. Every
# tenth is deleted, and of every twenty-fifth the last message was popped.
_LOAD = (
    """
    INSERT INTO threads (id, owner_id, id_at_origin, user_id, agent_id, session_id, title, language, metadata,
                         created_at, last_message_at, deleted_at)
    SELECT (lpad(to_hex(t), 12, '0') || substr(md5(t::text), 13))::uuid,
           CASE WHEN t <= :of_big THEN 'big' ELSE 'small ' || t % :owners END, 't' || t,
           'user ' || t % 50, 'agent ' || t % 20, 'session ' || t % 500, 'About ' || t, 'english',
           jsonb_build_object('team', t % 100), moment, moment,
           CASE WHEN t % 10 = 0 THEN moment + interval '300 days' END
    FROM generate_series(1, CAST(:threads AS int)) AS t,
         LATERAL (SELECT timestamptz '2025-01-01' + t % 1000 * interval '1 hour' AS moment) AS made""",
    """
    INSERT INTO messages (id, owner_id, thread_id, seq, role, content, context, language, user_id, agent_id, provider,
                          model, tokens_input, tokens_output, client_key, content_hash, created_at, deleted_at)
    SELECT (lpad(to_hex(row_number() OVER (ORDER BY created_at + seq * interval '1 minute', number)), 12, '0')
               || substr(md5(id_at_origin || seq), 13))::uuid,
           owner_id, id, seq, role, said || seq, CASE WHEN seq > 1 THEN said || seq - 1 ELSE '' END,
           'english', CASE WHEN role = 'user' THEN user_id END,
           CASE WHEN role = 'assistant' THEN agent_id END, CASE WHEN role = 'assistant' THEN provider END,
           CASE WHEN role = 'assistant' THEN 'model ' || number % 10 END, CASE WHEN role = 'assistant' THEN 700 END,
           CASE WHEN role = 'assistant' THEN 70 END, CASE WHEN role = 'user' THEN 'key ' || seq END,
           sha256(format('["%s", "%s", null, [], ""]', role, said || seq)::bytea),
           created_at + seq * interval '1 minute',
           CASE WHEN deleted_at IS NOT NULL THEN deleted_at
                WHEN number % 25 = 0 AND seq = size THEN created_at + interval '200 days' END
    FROM (SELECT *, substr(id_at_origin, 2)::int AS number FROM threads) AS owned,
         LATERAL (SELECT CASE WHEN number = 1 THEN CAST(:long AS int) ELSE 19 END AS size,
                         repeat('a few words of ' || id_at_origin || ', ', 8) AS said,
                         CASE WHEN number % 4 = 0 THEN 'anthropic' ELSE 'openai' END AS provider) AS made,
         generate_series(1, size) AS seq,
         LATERAL (SELECT CASE WHEN seq % 2 = 1 THEN 'user' ELSE 'assistant' END AS role) AS speaking""",
    """
    UPDATE threads SET last_seq = said.last_seq, message_count = said.living, tokens_input = said.tokens_input,
                       tokens_output = said.tokens_output, last_message_at = said.last_message_at
    FROM (SELECT thread_id, max(seq) AS last_seq, count(*) FILTER (WHERE is_living) AS living,
                 coalesce(sum(messages.tokens_input) FILTER (WHERE is_living), 0) AS tokens_input,
                 coalesce(sum(messages.tokens_output) FILTER (WHERE is_living), 0) AS tokens_output,
                 max(messages.created_at) FILTER (WHERE is_living) AS last_message_at
          FROM messages JOIN threads AS whole ON whole.id = thread_id,
               LATERAL (SELECT messages.deleted_at IS NOT DISTINCT FROM whole.deleted_at AS is_living) AS state
          GROUP BY thread_id) AS said
    WHERE said.thread_id = threads.id""",
    """
    INSERT INTO thread_summaries (id, owner_id, thread_id, language, content, first_seq, last_seq, token_count, model,
                                  is_current, created_at, updated_at, deleted_at)
    SELECT (substr(id::text, 1, 8) || lpad(to_hex(version), 4, '0') || substr(md5(id::text), 13))::uuid,
           owner_id, id, 'english', repeat('a summary of ' || id_at_origin || ', ', 20), 1,
           3 * version, 200, 'model 1', version = 4, created_at + version * interval '1 hour',
           created_at + version * interval '1 hour', deleted_at
    FROM threads, generate_series(1, 4) AS version WHERE hashtext(id_at_origin) % 2 = 0""",
    """
    INSERT INTO message_embeddings (owner_id, row_id, space_id, embedding, searchable)
    SELECT owner_id, id, :space, '[1,2,3]'::vector::halfvec, deleted_at IS NULL FROM messages""",
    """
    INSERT INTO summary_embeddings (owner_id, row_id, space_id, embedding, searchable)
    SELECT owner_id, id, :space, '[1,2,3]'::vector::halfvec, search_vector IS NOT NULL FROM thread_summaries
    WHERE is_current""",
)
_WORDS = {table: f"ix_{table}_search_vector" for table in ("messages", "thread_summaries")}


async def build(url: str, name: str, template: str) -> None:
    """A copy of the template with the conversations in it."""
    await servers.create_copy(url, name, template=template)
    async with servers.open_database(url, name) as database:
        service = database.service()
        async with service.session() as session:
            space = EmbeddingSpace(name="s", provider="test", model="test", dimensions=3, is_default=True)
            session.add(space)
            await session.flush()
            await session.refresh(space)
            await session.execute(text("SET LOCAL search_path = llmstack, public"))
            await _load(session, space.id)
            await session.commit()
        async with service.single_statements() as session:
            await session.execute(text("VACUUM ANALYZE"))


async def _load(session: AsyncSession, space: int) -> None:
    # The keys are right by themselves; what makes rows searchable runs, and its index is quicker made afterwards.
    await session.execute(text("SET LOCAL session_replication_role = replica"))
    await session.execute(text("SET LOCAL statement_timeout = 0"))
    for table in _WORDS:
        for trigger in ("searchable", "unsearchable"):
            await session.execute(text(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {table}_{trigger}"))
    made = [str(await session.scalar(text(f"SELECT pg_get_indexdef('{name}'::regclass)"))) for name in _WORDS.values()]
    await session.execute(text(f"DROP INDEX {', '.join(_WORDS.values())}"))
    given = {"threads": THREADS, "of_big": OF_BIG, "owners": OWNERS, "long": LONG, "space": space}
    for statement in map(text, _LOAD):
        await session.execute(statement, {key: given[key] for key in statement._bindparams})
    for index in made:
        await session.execute(text(index))
    for table in _WORDS:
        for trigger in ("searchable", "unsearchable"):
            await session.execute(text(f"ALTER TABLE {table} ENABLE TRIGGER {table}_{trigger}"))
    await refresh_statistics(session, model=Message, corpus="messages")
    await refresh_statistics(session, model=ThreadSummary, corpus="thread_summaries")


@dataclasses.dataclass
class Plan:
    """The plan of one statement."""

    statement: str
    root: Any

    def nodes(self, *, executed: bool = True) -> Iterator[Any]:
        """Every node, or those that were executed."""
        waiting = [self.root]
        while waiting:
            node = waiting.pop()
            if not executed or node.get("Actual Loops", 1):
                yield node
                waiting.extend(node.get("Plans", ()))

    @property
    def indexes(self) -> set[str]:
        return {node["Index Name"] for node in self.nodes() if "Index Name" in node}

    @property
    def scanned(self) -> set[str]:
        """The tables that were read from end to end."""
        read = [node for node in self.nodes() if node["Node Type"] == "Seq Scan"]
        return {node["Relation Name"] for node in read if node["Relation Name"].startswith(WATCHED)}

    def rows_of(self, table: str) -> int:
        """The rows of a table that were looked at, whether they were wanted or not."""
        return sum(
            round((node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"])
            for node in self.nodes()
            if node.get("Relation Name") == table and "Actual Rows" in node and node["Node Type"] != "ModifyTable"
        )


class Plans:
    """The plan of every statement that a session sends, each taken in its place right before it."""

    def __init__(self, session: AsyncSession, *, generic: bool = False) -> None:
        self._session = session
        self._generic = generic
        self.found: list[Plan] = []

    async def __aenter__(self) -> list[Plan]:
        self._connection = (await self._session.connection()).sync_connection
        event.listen(self._connection, "before_cursor_execute", self._explain)
        return self.found

    async def __aexit__(self, *exception: object) -> None:
        event.remove(self._connection, "before_cursor_execute", self._explain)

    def _explain(
        self, connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, many: bool
    ) -> None:
        if not statement.lstrip().upper().startswith(("SELECT", "INSERT", "UPDATE", "DELETE", "WITH")):
            return
        given = parameters[0] if many else parameters
        # What it writes is taken back.
        connection.exec_driver_sql("SAVEPOINT explained")
        explain = self._explain_generic if self._generic else self._explain_executed
        self.found.append(Plan(statement, explain(connection, statement, given)))
        connection.exec_driver_sql("ROLLBACK TO SAVEPOINT explained")

    def _explain_executed(self, connection: Any, statement: str, given: Any) -> Any:
        return connection.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", given).scalar_one()[0]["Plan"]

    def _explain_generic(self, connection: Any, statement: str, given: Any) -> Any:
        """The plan for any values, which a connection takes to after a few executions."""
        connection.exec_driver_sql("SET LOCAL plan_cache_mode = force_generic_plan")
        connection.exec_driver_sql(f"PREPARE explained AS {statement}")
        values = f"({', '.join(['NULL'] * len(given))})" if given else ""
        try:
            explained = connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) EXECUTE explained{values}")
            return explained.scalar_one()[0]["Plan"]
        finally:
            connection.exec_driver_sql("DEALLOCATE explained")


async def thread_id(session: AsyncSession, number: int) -> uuid.UUID:
    """The id of the thread of this number."""
    found = await session.scalar(
        text("SELECT id FROM llmstack.threads WHERE id_at_origin = :name"), {"name": f"t{number}"}
    )
    assert isinstance(found, uuid.UUID)
    return found
