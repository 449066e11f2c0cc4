"""A whole change of the model while everybody searches and writes: no search fails, comes short or mixes spaces."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from change_support import COUNT, REFRESH, MakeStack, Model, add, add_papers, found, grow, scalar

from llmstack import LLMStack
from llmstack.embeddings import SpaceNotServing
from llmstack.errors import Conflict

PAUSE = 4 * REFRESH
READERS = {"both", "ahead", "only old"}


@dataclass
class World:
    """What the readers saw in each phase, and what the writers wrote."""

    old: Model
    new: Model
    phase: str = "before"
    running: bool = True
    retiring: bool = False
    seen: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    news: asyncio.Condition = field(default_factory=asyncio.Condition)
    written: list[str] = field(default_factory=list)

    async def read(self, name: str, stack: LLMStack) -> None:
        """A full page in the order of one model; which one is noted where the phase did not change meanwhile."""
        while self.running:
            phase = self.phase
            try:
                page = await found(stack)
            except SpaceNotServing:
                # Only for the process that was never told of the new model, and only at the end.
                assert (name, self.retiring) == ("only old", True)
                assert len(await found(stack, mode=None, query="paper")) == 10
                model = "text"
            else:
                model = next(model.name for model in (self.old, self.new) if page == model.ranking[:10])
            if phase == self.phase:
                async with self.news:
                    self.seen[name, phase, model] += 1
                    self.news.notify_all()

    async def write(self, name: str, stack: LLMStack) -> None:
        """Documents one after another, each of which is found as soon as it is written."""
        while self.running:
            word = f"{name}{len(self.written)}"
            result = await add(stack, f"report {word}")
            assert result.error is None
            self.written.append(word)
            assert f"report {word}" in await found(stack, mode=None, query=f"report {word}")
            await asyncio.sleep(0.05)

    async def embed(self, stack: LLMStack) -> None:
        while self.running:
            await stack.embeddings.process_pending()
            await asyncio.sleep(0.05)


async def retried(step: Callable[[], Awaitable[object]]) -> None:
    """While others write, a vector is owed at many a moment; the same again a little later."""
    for _ in range(200):
        try:
            await step()
            return
        except Conflict as error:
            if "wait for their vector" not in str(error):
                raise
            await asyncio.sleep(0.02)
    raise AssertionError("the space never was complete")


async def change(world: World, operator: LLMStack) -> None:
    """The steps of the README, with time between them for everybody to take part."""

    async def enter(phase: str) -> None:
        world.phase = "between"
        await asyncio.sleep(PAUSE)
        world.phase = phase
        async with asyncio.timeout(60), world.news:
            await world.news.wait_for(lambda: {name for name, seen, _ in world.seen if seen == phase} == READERS)

    embeddings = operator.embeddings
    await enter("before")
    await embeddings.add_space(world.new.embedder())
    await enter("shadow")
    await grow(operator, "new")
    await enter("grown")
    assert (await embeddings.verify("new", least_coverage=0.5)).faults == ()
    await retried(lambda: embeddings.cut_over("new"))
    await enter("cut over")
    await retried(embeddings.roll_back)
    await enter("gone back")
    await retried(lambda: embeddings.cut_over("new"))
    await enter("cut over again")
    world.phase, world.retiring = "retiring", True
    assert (await embeddings.retire("old")).vectors >= COUNT
    await enter("retired")
    world.running = False


async def test_searches_never_stop_nor_mix_while_the_model_changes(
    make_stack: MakeStack, old: Model, new: Model
) -> None:
    operator = make_stack(old.embedder())
    both = make_stack(old.embedder(), new.embedder())
    ahead = make_stack(new.embedder(), old.embedder())
    only_old = make_stack(old.embedder())
    await add_papers(operator)
    await operator.embeddings.build_index()
    world = World(old, new)
    async with asyncio.TaskGroup() as group:
        for name, stack in (("both", both), ("both", both), ("ahead", ahead), ("only old", only_old)):
            group.create_task(world.read(name, stack))
        for name, stack in (("b", both), ("o", only_old)):
            group.create_task(world.write(name, stack))
        group.create_task(world.embed(both))
        await change(world, operator)

    under_old, under_new = ("before", "shadow", "grown", "gone back"), ("cut over", "cut over again", "retired")
    expected = {
        *((name, phase, "old") for name in ("both", "ahead") for phase in under_old),
        *((name, phase, "new") for name in ("both", "ahead") for phase in under_new),
        *(("only old", phase, "old") for phase in (*under_old, "cut over", "cut over again")),
        ("only old", "retired", "text"),
    }
    assert {key for key in world.seen if key[1] not in ("between", "retiring")} == expected, world.seen
    assert {key[::2] for key in world.seen if key[1] == "retiring"} <= {
        ("both", "new"), ("ahead", "new"), ("only old", "old"), ("only old", "text")
    }  # fmt: skip

    # What anybody wrote at any time is found by its vector too, as soon as the queue is empty.
    await both.embeddings.process_pending()
    verified = await both.embeddings.verify("new")
    assert (verified.coverage, verified.ready) == (1.0, True)
    assert len(world.written) > 20
    everything = await found(both, limit=1000)
    assert everything[:COUNT] == new.ranking
    assert sorted(everything[COUNT:]) == sorted(f"report {word}" for word in world.written)
    spaces = "SELECT count(DISTINCT space_id) FROM llmstack.chunk_embeddings"
    assert await scalar(both, spaces) == 1
