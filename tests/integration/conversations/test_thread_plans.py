"""The plans of what each verb sends over five thousand threads and a hundred thousand messages."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
from conversation_support import broken_threads, said, turns
from plan_support import BIG, LONG, SMALL, Plan, Plans, build, thread_id
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from llmstack import LLMStack
from llmstack.conversations import ConversationRepository, Message, Thread, ThreadFilter, ThreadInput, ThreadSummary
from llmstack.conversations.opening import _locking
from llmstack.conversations.preparation import prepare
from llmstack.conversations.records import ThreadRef
from llmstack.conversations.writer import write_threads
from llmstack.db import Service
from llmstack.settings import Settings
from llmstack.testing import servers

YEAR = dt.timedelta(days=365)
SPRING = dt.datetime(2025, 2, 1, tzinfo=dt.UTC)


@pytest.fixture(scope="module")
def conversations(llmstack_server_url: str, llmstack_template: str) -> Iterator[str]:
    """The name of the loaded database; what a test writes is rolled back."""
    name = servers.unique_name()
    try:
        servers.run_apart(build(llmstack_server_url, name, llmstack_template))
        yield name
    finally:
        servers.run_apart(servers.drop(llmstack_server_url, name))


@pytest.fixture
async def service(llmstack_server_url: str, conversations: str) -> AsyncIterator[Service]:
    async with servers.open_database(llmstack_server_url, conversations) as database:
        yield database.service()


class Verbs:
    """A repository, and what a host asks for beside it."""

    def __init__(self, session: AsyncSession) -> None:
        self.session = session
        self.repository = ConversationRepository(session)

    async def by_id(self, number: int, verb: str, *, owner_id: str = BIG, **more: Any) -> Any:
        return await getattr(self.repository, verb)(
            owner_id=owner_id, thread=await thread_id(self.session, number), **more
        )

    async def second_page(self, **more: Any) -> None:
        page = await self.repository.list_threads(**more)
        assert page.cursor is not None
        await self.repository.list_threads(cursor=page.cursor, **more)

    async def last_of_an_agent(self) -> None:
        wanted = select(Message).where(Message.agent_id == "agent 7").order_by(Message.created_at.desc()).limit(20)
        assert len((await self.session.scalars(wanted)).all()) == 20

    async def usage(self) -> None:
        used = select(func.sum(Message.tokens_input), func.sum(Message.tokens_output)).where(
            Message.provider == "anthropic", Message.model == "model 4", Message.created_at >= SPRING,
            Message.created_at < SPRING + dt.timedelta(days=1),
        )  # fmt: skip
        assert (await self.session.execute(used)).one()[0] is not None

    async def changed_summaries(self) -> None:
        changed = select(ThreadSummary).where(ThreadSummary.updated_at >= SPRING).order_by(ThreadSummary.updated_at)
        assert len((await self.session.scalars(changed.limit(20))).all()) == 20

    async def append_to_many(self) -> None:
        """Thirty threads by their names, and one by its id, which are there, and one that is not."""
        refs: list[ThreadRef] = [
            *(f"t{number}" for number in range(101, 131) if number % 10),
            await thread_id(self.session, 141),
            "new",
        ]
        inputs = [ThreadInput(owner_id=BIG, thread=ref, messages=turns("one", "two")) for ref in refs]
        results = await write_threads(self.session, [prepare(given, Settings()) for given in inputs])
        assert all(getattr(result, "error", "") is None for result in results)

    async def append_very_much(self) -> None:
        await self.repository.append(owner_id=BIG, thread="t3", messages=turns(*(f"turn {n}" for n in range(300))))

    async def known_keys(self) -> None:
        known = said("user", "a few words of t3, " * 8 + "5", client_key="key 5")
        done = await self.repository.append(owner_id=BIG, thread="t3", messages=[known])
        assert [(message.seq, message.is_new) for message in done.messages] == [(5, False)]

    async def answer(self) -> None:
        given = said("tool", "found", tool_call_id="c1")
        done = await self.repository.append(owner_id=BIG, thread="t3", messages=[given])
        assert done.without_call == ("c1",)

    async def window(self, *, thread: str = "t1") -> None:
        history = await self.repository.history(owner_id=BIG, thread=thread, last=10)
        window = [said(message.role, message.content) for message in history]
        await self.repository.append_window(owner_id=BIG, thread=thread, messages=[*window, said(content="new")])


@dataclasses.dataclass(frozen=True)
class Case:
    """What is asked for, by which indexes that is read, and how many messages may be looked at for it."""

    run: Callable[[Verbs], Awaitable[Any]]
    indexes: frozenset[str]
    messages: int | None = None


def case(run: Callable[[Verbs], Awaitable[Any]], *indexes: str, messages: int | None = None) -> Case:
    return Case(run, frozenset(indexes), messages)


NAMED, SAID = "uq_threads_owner_id_id_at_origin", "uq_messages_thread_id_seq"
RECENT, OF_USER, OF_AGENT = (f"ix_threads_owner_id_{name}last_message_at_id" for name in ("", "user_id_", "agent_id_"))
KEYS = "uq_messages_owner_id_thread_id_client_key"

CASES = {
    "the end of a history": case(lambda of: of.by_id(1, "history", last=20), SAID, messages=20),
    "the end of a history by its name": case(
        lambda of: of.repository.history(owner_id=BIG, thread="t1", last=20), SAID, NAMED, messages=20
    ),
    "what comes before a message": case(
        lambda of: of.repository.history(owner_id=BIG, thread="t1", last=20, before=3000), SAID, messages=20
    ),
    "what comes after a message": case(lambda of: of.by_id(1, "history", after=LONG - 20), SAID, messages=20),
    "a budget of tokens": case(
        lambda of: of.repository.history(owner_id=BIG, thread="t1", tokens=500), SAID, messages=200
    ),
    "a short history": case(
        lambda of: of.repository.history(owner_id=SMALL, thread="t2521"), SAID, NAMED, messages=19
    ),
    "a thread": case(lambda of: of.repository.get(owner_id=BIG, thread="t3"), NAMED),
    "a thread by its id": case(lambda of: of.by_id(3, "get"), messages=0),
    "an owner's threads": case(lambda of: of.repository.list_threads(owner_id=BIG), RECENT, SAID, messages=51),
    "a small owner's threads": case(lambda of: of.repository.list_threads(owner_id=SMALL), messages=51),
    "a user's threads": case(
        lambda of: of.repository.list_threads(owner_id=BIG, user_id="user 7"), OF_USER, SAID, messages=51
    ),
    "an agent's threads": case(
        lambda of: of.repository.list_threads(owner_id=BIG, agent_id="agent 7"), OF_AGENT, SAID, messages=51
    ),
    "a page behind another": case(lambda of: of.second_page(owner_id=BIG, limit=20), RECENT, SAID, messages=42),
    "a user's page behind another": case(
        lambda of: of.second_page(owner_id=BIG, user_id="user 7", limit=20), OF_USER, SAID, messages=42
    ),
    "a session's threads": case(lambda of: of.repository.list_threads(owner_id=BIG, session_id="session 7")),
    "threads of a team": case(lambda of: of.repository.list_threads(owner_id=BIG, metadata={"team": 7})),
    "threads since a moment": case(lambda of: of.repository.list_threads(owner_id=BIG, since=SPRING), RECENT),
    "deleted threads": case(lambda of: of.repository.list_threads(owner_id=BIG, deleted=True), messages=51),
    "an agent's messages across threads": case(
        Verbs.last_of_an_agent, "ix_messages_agent_id_created_at", messages=20
    ),
    "usage of a model in a day": case(
        Verbs.usage, "ix_messages_provider_model_created_at", messages=1_000
    ),
    "summaries that changed": case(Verbs.changed_summaries, "ix_thread_summaries_updated_at"),
    "appending": case(
        lambda of: of.repository.append(owner_id=BIG, thread="t1", messages=turns("one", "two")),
        NAMED, SAID, messages=5,
    ),
    "appending by id": case(lambda of: of.by_id(1, "append", messages=turns("one")), SAID, messages=5),
    "appending to a new thread": case(
        lambda of: of.repository.append(owner_id=BIG, thread="new", messages=turns("one")), NAMED, messages=0
    ),
    "appending to many threads": case(Verbs.append_to_many, NAMED, SAID, messages=200),
    "appending very much": case(Verbs.append_very_much, NAMED, SAID, messages=300),
    "a known client_key": case(Verbs.known_keys, KEYS, messages=5),
    "an answer to a tool call": case(Verbs.answer, SAID, messages=30),
    "a window": case(Verbs.window, SAID, messages=50),
    "popping": case(lambda of: of.repository.pop(owner_id=BIG, thread="t3"), NAMED, SAID, messages=60),
    "clearing": case(lambda of: of.repository.clear(owner_id=BIG, thread="t3"), NAMED, SAID, messages=100),
    "forking": case(lambda of: of.repository.fork(owner_id=BIG, thread="t3"), NAMED, SAID, messages=100),
    "forking the beginning of a long thread": case(
        lambda of: of.repository.fork(owner_id=BIG, thread="t1", at_seq=10), NAMED, SAID, messages=100
    ),
    "updating": case(lambda of: of.repository.update(owner_id=BIG, thread="t3", metadata={"a": 1}), NAMED),
    "deleting": case(lambda of: of.repository.delete(owner_id=BIG, thread="t3"), NAMED, SAID, messages=100),
    "deleting a user's threads": case(
        lambda of: of.repository.delete_many(owner_id=SMALL, where=ThreadFilter(user_id="user 21"))
    ),
    "restoring": case(lambda of: of.repository.restore(owner_id=BIG, thread="t10"), NAMED, SAID, messages=100),
    "purging a small owner": case(lambda of: of.repository.purge(owner_id="small 0", older_than=dt.timedelta(0))),
    "purging where little was deleted": case(
        lambda of: of.repository.purge(owner_id=BIG, older_than=3 * YEAR),
        "ix_messages_owner_id_deleted_at",
        messages=1_000,
    ),
}  # fmt: skip


async def plans_of(service: Service, name: str, *, generic: bool = False) -> list[Plan]:
    async with service.session() as session, Plans(session, generic=generic) as plans:
        await CASES[name].run(Verbs(session))
    # What this file itself looks up is no verb's.
    return [plan for plan in plans if "WHERE id_at_origin = " not in plan.statement]


async def test_the_rows_are_such_as_the_product_writes(service: Service) -> None:
    stack = LLMStack(engine=service.database.engine, embedder="none")
    assert await broken_threads(stack) == []


@pytest.mark.parametrize("name", CASES)
async def test_a_verb_reads_its_indexes_and_no_more_messages_than_it_wants(service: Service, name: str) -> None:
    plans = await plans_of(service, name)
    for plan in plans:
        assert plan.scanned == set(), plan.statement
        looked_at, most = plan.rows_of("messages"), CASES[name].messages
        assert most is None or looked_at <= most, plan.statement
    assert {index for plan in plans for index in plan.indexes} >= CASES[name].indexes


@pytest.mark.parametrize("name", CASES)
async def test_the_plan_for_any_values_reads_nothing_from_end_to_end(service: Service, name: str) -> None:
    for plan in await plans_of(service, name, generic=True):
        assert plan.scanned == set(), plan.statement


async def test_the_hundredth_page_is_found_as_fast_as_the_first(service: Service) -> None:
    async with service.session() as session:
        repository = ConversationRepository(session)
        cursor = None
        for _ in range(100):
            cursor = (await repository.list_threads(owner_id=BIG, limit=20, cursor=cursor)).cursor
            assert cursor is not None
        async with Plans(session) as plans:
            page = await repository.list_threads(owner_id=BIG, limit=20, cursor=cursor)
    assert len(page.items) == 20
    (plan,) = plans
    pages = [node for node in plan.nodes() if node.get("Index Name") == RECENT and "ROW(" in node.get("Index Cond", "")]
    # It begins right behind the cursor: nothing is skipped.
    assert [(node["Actual Rows"], node.get("Rows Removed by Filter", 0)) for node in pages] == [(21, 0)]
    assert plan.scanned == set()


@pytest.mark.parametrize("column", ["id_at_origin", "id"])
async def test_the_lock_of_an_append_reads_its_threads_by_their_keys(service: Service, column: str) -> None:
    async with service.session() as session, Plans(session) as plans:
        keys = ["t1", "t2"] if column == "id_at_origin" else [await thread_id(session, number) for number in (1, 2)]
        name = getattr(Thread, column)
        given = {"given_owner_id": [BIG, BIG], "given_key": keys}
        found = (await session.execute(_locking(name, alone=False), given)).all()
    assert len(found) == 2
    plan = plans[-1]
    assert plan.scanned == set()
    # Each once to lock it, and once as the statement saw it first.
    assert plan.rows_of("threads") == 4
    # One for where the next comes, and one for its context.
    assert plan.rows_of("messages") <= 4


@pytest.mark.parametrize("owner", [BIG, SMALL])
async def test_a_purge_looks_at_what_was_deleted_alone(service: Service, owner: str) -> None:
    async with service.session() as session, Plans(session) as plans:
        await ConversationRepository(session).purge(owner_id=owner, older_than=2 * YEAR)
    # Nothing was deleted so long ago.
    looked = {plan.statement: plan.rows_of("messages") for plan in plans}
    assert max(looked.values()) <= 2_000, looked
