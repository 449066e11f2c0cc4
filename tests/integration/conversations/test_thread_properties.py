"""Whatever is said, taken back, forked and deleted: what is read is what a simple model in Python says."""

from __future__ import annotations

import dataclasses
import datetime as dt
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conversation_support import NOON, append, broken_threads, contents, history, said
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmstack import LLMStack
from llmstack.conversations import AppendResult, ClientKeyReused, HistoryEdited, ThreadDeleted, ThreadNotFound
from llmstack.errors import Conflict, ValidationError


def rules(examples: int) -> settings:
    """The same examples in every run, whatever time each takes."""
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
    )


@dataclasses.dataclass(frozen=True)
class Said:
    """A message of the model; `minute` is when it was said."""

    role: str
    content: str
    minute: int
    key: str | None = None

    @property
    def shown(self) -> tuple[str, str]:
        return self.role, self.content

    def given(self) -> Any:
        moment = NOON + dt.timedelta(minutes=self.minute)
        return said(self.role, self.content, client_key=self.key, created_at=moment, tokens_input=len(self.content))


@dataclasses.dataclass
class Known:
    """What the model knows of one thread: its living messages by their seqs."""

    id: uuid.UUID
    created_at: dt.datetime
    messages: dict[int, Said] = dataclasses.field(default_factory=dict)
    last_seq: int = 0
    deleted: bool = False

    @property
    def last_message_at(self) -> dt.datetime:
        moments = [NOON + dt.timedelta(minutes=message.minute) for message in self.messages.values()]
        return max(moments, default=self.created_at)

    @property
    def order(self) -> tuple[dt.datetime, uuid.UUID]:
        return self.last_message_at, self.id

    def add(self, messages: list[Said]) -> list[tuple[int, bool]]:
        return [self._add(message) for message in messages]

    def _add(self, message: Said) -> tuple[int, bool]:
        for seq, known in self.messages.items():
            if message.key is not None and known.key == message.key:
                return seq, False
        self.last_seq += 1
        self.messages[self.last_seq] = message
        return self.last_seq, True

    def reuses(self, messages: list[Said]) -> bool:
        known = {message.key: message.shown for message in self.messages.values() if message.key}
        return any(message.key in known and known[message.key] != message.shown for message in messages)

    def contexts(self) -> list[str]:
        found = [message.content for message in self.messages.values()]
        return ["", *found[:-1]] if found else []


Shown = list[tuple[str, str]]


def longest_overlap(history: Shown, window: Shown) -> int:
    lengths = range(min(len(history), len(window)), 0, -1)
    return next((length for length in lengths if history[-length:] == window[:length]), 0)


def leaves_at(history: Shown, window: Shown) -> tuple[int, int] | None:
    """How much of the history, and of the window, lies before the first difference; None where all is new."""

    def alike(start: int) -> int:
        return [pair[0] == pair[1] for pair in zip(history[start:], window, strict=False)].count(True)

    best = max(map(alike, range(len(history))), default=0)
    starts = [start for start in range(len(history)) if alike(start) == best]
    start = starts[-1] if best >= 2 else 0
    if best < 2 and history[:1] != window[:1]:
        return None
    shared = 0
    while [*history[start:], None][shared : shared + 1] == [*window, "end"][shared : shared + 1]:
        shared += 1
    return start + shared, shared


OWNERS, NAMES, FORKS = ["one", "two"], ["x", "y"], ["x", "f", None]
CONTENTS = ["question", "answer", "more", "thanks", "thanks"]
PLACES = st.tuples(st.sampled_from(OWNERS), st.sampled_from(NAMES))
ROLES = st.sampled_from(["user", "assistant"])
MESSAGES = st.lists(
    st.builds(
        Said, ROLES, st.sampled_from(CONTENTS), st.integers(0, 30), st.one_of(st.none(), st.sampled_from(["k1", "k2"]))
    ),
    min_size=1,
    max_size=3,
)
PLAIN = st.lists(st.builds(Said, ROLES, st.sampled_from(CONTENTS), st.integers(0, 30)), max_size=3)
SEQS = st.none() | st.integers(0, 12)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.tuples(PLACES, MESSAGES, st.booleans())),
        st.tuples(st.just("append"), st.tuples(PLACES, MESSAGES, st.booleans())),
        st.tuples(st.just("window"), st.tuples(PLACES, st.integers(0, 6), PLAIN, SEQS, st.booleans())),
        st.tuples(st.just("window"), st.tuples(PLACES, st.integers(0, 6), PLAIN, SEQS, st.booleans())),
        st.tuples(st.sampled_from(["pop", "clear", "delete", "restore"]), PLACES),
        st.tuples(st.just("fork"), st.tuples(PLACES, SEQS, st.sampled_from(FORKS))),
        st.tuples(st.just("purge"), st.sampled_from(OWNERS)),
        st.tuples(
            st.just("look"),
            st.tuples(PLACES, st.none() | st.integers(1, 5), SEQS, SEQS, st.none() | st.sets(ROLES, min_size=1)),
        ),
        st.tuples(st.just("turn pages"), st.tuples(st.sampled_from(OWNERS), st.integers(1, 2), PLACES, MESSAGES)),
    ),
    min_size=4,
    max_size=16,
)


class Play:
    """Does every step to the database and to the model, under owners that nobody else has."""

    def __init__(self, stack: LLMStack) -> None:
        self.stack = stack
        self.conversations = stack.conversations
        self.model: dict[tuple[str, str], Known] = {}
        self.prefix = uuid.uuid4().hex

    def owner(self, name: str) -> str:
        return f"{self.prefix}-{name}"

    def named(self, place: tuple[str, str]) -> dict[str, Any]:
        return {"owner_id": self.owner(place[0]), "thread": place[1]}

    def found(self, place: tuple[str, str]) -> Known | None:
        known = self.model.get(place)
        return None if known is None or known.deleted else known

    async def step(self, verb: str, given: Any) -> None:
        steps: dict[str, Callable[[Any], Any]] = {
            "append": self.append, "window": self.window, "pop": self.pop, "clear": self.clear, "fork": self.fork,
            "delete": self.delete, "restore": self.restore, "purge": self.purge, "look": self.look,
            "turn pages": self.turn_pages,
        }  # fmt: skip
        await steps[verb](given)

    # --- writing

    async def append(self, given: Any) -> None:
        place, messages, by_id = given
        known = self.model.get(place)
        name: Any = known.id if known is not None and by_id else place[1]
        error = self._refused(known, messages, by_id=by_id)
        asked = append(self.stack, name, *(message.given() for message in messages), owner_id=self.owner(place[0]))
        if error is not None:
            with pytest.raises(error):
                await asked
            return
        self._take(place, await asked, messages)

    def _refused(self, known: Known | None, messages: list[Said], *, by_id: bool) -> type[Exception] | None:
        keys: dict[str, tuple[str, str]] = {}
        for message in messages:
            if message.key is not None and keys.setdefault(message.key, message.shown) != message.shown:
                return ValidationError
        if known is None:
            return None
        if known.deleted:
            return ThreadNotFound if by_id else ThreadDeleted
        return ClientKeyReused if known.reuses(messages) else None

    def _take(self, place: tuple[str, str], result: AppendResult, messages: list[Said]) -> None:
        assert result.thread_id is not None
        assert result.is_new is (place not in self.model)
        if result.is_new:
            begun_at = NOON + dt.timedelta(minutes=min(message.minute for message in messages))
            self.model[place] = Known(result.thread_id, begun_at)
        known = self.model[place]
        assert (result.thread_id, result.branch_of) == (known.id, None)
        assert [(message.seq, message.is_new) for message in result.messages] == known.add(messages)

    async def window(self, given: Any) -> None:
        place, last, new, changed, branches = given
        known = self.model.get(place)
        seqs = [] if known is None else sorted(known.messages)
        before = [] if known is None else [known.messages[seq] for seq in seqs]
        window = [dataclasses.replace(message, key=None) for message in [*before[len(before) - last :], *new]]
        if changed is not None and changed < len(window):
            window[changed] = dataclasses.replace(window[changed], content="edited")
        if not window:
            return
        asked = self.conversations.append_window(
            **self.named(place),
            messages=[message.given() for message in window],
            on_edit="branch" if branches else "conflict",
        )
        if known is not None and known.deleted:
            with pytest.raises(ThreadDeleted):
                await asked
            return
        shown, wanted = [message.shown for message in before], [message.shown for message in window]
        overlap = longest_overlap(shown, wanted)
        left = leaves_at(shown, wanted) if before and not overlap else None
        if known is None or left is None:
            self._take_window(place, await asked, window, seqs[len(seqs) - overlap :])
        elif branches:
            self._take_branch(place, await asked, window, *left)
        else:
            with pytest.raises(HistoryEdited) as raised:
                await asked
            assert raised.value.seq == (seqs[left[0] - 1] if left[0] else 0)

    def _take_window(self, place: Any, result: AppendResult, window: list[Said], known: list[int]) -> None:
        seen, rest = result.messages[: len(known)], result.messages[len(known) :]
        assert [(message.seq, message.is_new) for message in seen] == [(seq, False) for seq in known]
        # Of a thread that is new the whole window tells when it began.
        self._take(place, dataclasses.replace(result, messages=rest), window[len(known) :])

    def _take_branch(self, place: Any, result: AppendResult, window: list[Said], left: int, shared: int) -> None:
        source = self.model[place]
        assert result.branch_of == source.id
        assert result.thread_id is not None
        assert result.is_new
        assert result.id_at_origin == str(result.thread_id)
        made = Known(result.thread_id, NOON)
        made.add([dataclasses.replace(source.messages[seq], key=None) for seq in sorted(source.messages)[:left]])
        for number, seq in enumerate(sorted(source.messages)[:left], 1):
            made.messages[number] = source.messages[seq]
        new = [(message.seq, message.is_new) for message in result.messages]
        assert new[:shared] == [(seq, False) for seq in range(left - shared + 1, left + 1)]
        assert new[shared:] == made.add(window[shared:])
        self.model[place[0], str(result.thread_id)] = made

    async def pop(self, place: Any) -> None:
        known, asked = self.found(place), self.conversations.pop(**self.named(place))
        if known is None:
            with pytest.raises(ThreadNotFound):
                await asked
            return
        message = await asked
        if not known.messages:
            assert message is None
            return
        assert message is not None
        gone = known.messages.pop(max(known.messages))
        assert (message.role, message.content) == gone.shown

    async def clear(self, place: Any) -> None:
        known, asked = self.found(place), self.conversations.clear(**self.named(place))
        if known is None:
            with pytest.raises(ThreadNotFound):
                await asked
            return
        assert await asked == len(known.messages)
        known.messages.clear()

    async def fork(self, given: Any) -> None:
        place, at_seq, name = given
        known = self.found(place)
        asked = self.conversations.fork(**self.named(place), at_seq=at_seq, id_at_origin=name)
        if known is None:
            with pytest.raises(ThreadNotFound):
                await asked
        elif (place[0], name) in self.model:
            with pytest.raises(Conflict):
                await asked
        else:
            thread = await asked
            assert thread.id_at_origin == (name or str(thread.id))
            kept = [known.messages[seq] for seq in sorted(known.messages) if at_seq is None or seq <= at_seq]
            made = Known(thread.id, thread.created_at, dict(enumerate(kept, 1)), len(kept))
            self.model[place[0], thread.id_at_origin] = made

    async def delete(self, place: Any) -> None:
        known = self.found(place)
        assert await self.conversations.delete(**self.named(place)) == int(known is not None)
        if known is not None:
            known.deleted = True

    async def restore(self, place: Any) -> None:
        known = self.model.get(place)
        was_deleted = known is not None and known.deleted
        assert await self.conversations.restore(**self.named(place)) == int(was_deleted)
        if known is not None:
            known.deleted = False

    async def purge(self, owner: Any) -> None:
        gone = [place for place, known in self.model.items() if place[0] == owner and known.deleted]
        assert await self.conversations.purge(owner_id=self.owner(owner)) == len(gone)
        for place in gone:
            del self.model[place]

    # --- reading

    async def look(self, given: Any) -> None:
        place, last, before, after, roles = given
        known = self.found(place)
        asked = history(
            self.stack, place[1], owner_id=self.owner(place[0]), last=last, before=before, after=after,
            roles=None if roles is None else sorted(roles),
        )  # fmt: skip
        if known is None:
            with pytest.raises(ThreadNotFound):
                await asked
            return
        wanted = [
            (seq, *known.messages[seq].shown)
            for seq in sorted(known.messages)
            if (before is None or seq < before) and (after is None or seq > after)
            and (roles is None or known.messages[seq].role in roles)
        ]  # fmt: skip
        shown = [(message.seq, message.role, message.content) for message in await asked]
        assert shown == (wanted if last is None else wanted[-last:])

    def living(self, owner: str, *, deleted: bool = False) -> list[tuple[str, Known]]:
        """The owner's threads in the order of a list."""
        mine = [(name, known) for (who, name), known in self.model.items() if who == owner]
        mine = [(name, known) for name, known in mine if known.deleted is deleted]
        return sorted(mine, key=lambda pair: pair[1].order, reverse=True)

    async def turn_pages(self, given: Any) -> None:
        """Each page is what then lies behind the last thread of the one before, whatever is written meanwhile."""
        owner, limit, place, messages = given
        cursor, behind = None, None
        for _ in range(20):
            page = await self.conversations.list_threads(owner_id=self.owner(owner), limit=limit, cursor=cursor)
            now = self.living(owner)
            wanted = [name for name, known in now if behind is None or known.order < behind]
            assert [item.thread.id_at_origin for item in page.items] == wanted[:limit]
            assert page.total == len(now)
            assert (page.cursor is None) is (len(wanted) <= limit)
            if page.cursor is None:
                return
            cursor, behind = page.cursor, self.model[owner, page.items[-1].thread.id_at_origin].order
            await self.append((place, messages, False))

    async def check(self) -> None:
        for owner in OWNERS:
            await self._check_owner(owner)

    async def _check_owner(self, owner: str) -> None:
        owner_id = self.owner(owner)
        for deleted in (False, True):
            page = await self.conversations.list_threads(owner_id=owner_id, deleted=deleted)
            wanted = self.living(owner, deleted=deleted)
            assert [item.thread.id_at_origin for item in page.items] == [name for name, _ in wanted]
            assert [(item.last_role, item.last_content) for item in page.items] == [
                known.messages[max(known.messages)].shown if known.messages else (None, None) for _, known in wanted
            ]
            for item, (_, known) in zip(page.items, wanted, strict=True):
                thread, texts = item.thread, [message.content for message in known.messages.values()]
                assert (thread.id, thread.last_seq, thread.message_count) == (known.id, known.last_seq, len(texts))
                assert thread.tokens_input == sum(map(len, texts))
                assert thread.last_message_at == known.last_message_at
        for name, known in self.living(owner):
            found = await history(self.stack, name, owner_id=owner_id)
            assert {message.seq: (message.role, message.content, message.client_key) for message in found} == {
                seq: (*message.shown, message.key) for seq, message in known.messages.items()
            }
            assert [message.context for message in found] == known.contexts()
        statistics = await self.conversations.statistics(owner_id=owner_id)
        living = [known for _, known in self.living(owner)]
        assert (statistics.threads, statistics.messages) == (len(living), sum(len(known.messages) for known in living))


@rules(20)
@given(STEPS)
async def test_whatever_is_done_threads_are_what_a_simple_model_says(stack: LLMStack, steps: list[Any]) -> None:
    play = Play(stack)
    for verb, given_ in steps:
        await play.step(verb, given_)
        await play.check()
    assert await broken_threads(stack) == []


def windows_of(turns: list[list[Said]], size: int) -> Iterator[tuple[list[Said], list[Said]]]:
    """What a client has said after each turn, and the window of it that it sends."""
    everything: list[Said] = []
    for turn in turns:
        everything = [*everything, *turn]
        yield everything, everything[max(0, len(everything) - len(turn) - size) :]


DISTINCT_TURNS = st.lists(st.integers(1, 3), min_size=1, max_size=6).map(
    lambda sizes: [
        [Said("user", f"turn {turn} {number}" if number != 1 else "thanks", turn) for number in range(size)]
        for turn, size in enumerate(sizes)
    ]
)


@rules(15)
@given(DISTINCT_TURNS, st.integers(1, 8))
async def test_a_client_that_sends_windows_stores_each_message_once(
    stack: LLMStack, turns: list[list[Said]], size: int
) -> None:
    name = uuid.uuid4().hex
    for everything, window in windows_of(turns, size):
        for _ in range(2):
            await stack.conversations.append_window(
                owner_id="acme", thread=name, messages=[message.given() for message in window]
            )
            assert await contents(stack, name) == [message.content for message in everything]
