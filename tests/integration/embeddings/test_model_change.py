"""The steps of a change of the model, each refused where it would lose something, and each able to go on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from change_support import COUNT, MakeStack, Model, add, add_papers, found, grow, places, scalar
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from llmstack import LLMStack
from llmstack.db import Database
from llmstack.db.migrate import apply_grants
from llmstack.db.schemas import quote
from llmstack.embeddings import Retirement, SpaceNotFound
from llmstack.embeddings.recall import Recall
from llmstack.errors import ConfigurationError, Conflict, DatabaseError, ValidationError
from llmstack.retrieval import JudgedQuery
from llmstack.retrieval.tuning import calibration
from llmstack.settings import Settings
from llmstack.testing import servers


@pytest.fixture
async def begun(both: LLMStack, new: Model) -> LLMStack:
    """Papers in the old space, and the new one in the shadow, with nothing in it."""
    await add_papers(both)
    await both.embeddings.add_space(new.embedder())
    return both


@pytest.fixture
async def grown(begun: LLMStack) -> LLMStack:
    """Both spaces have everything."""
    await grow(begun, "new")
    await begun.embeddings.build_index(space="old")
    return begun


async def _defaults(stack: LLMStack) -> list[str]:
    return [space.name for space in await stack.embeddings.spaces() if space.is_default]


async def test_verifying_says_what_is_missing_until_nothing_is(begun: LLMStack, new: Model) -> None:
    embeddings = begun.embeddings
    first = await embeddings.verify("new")
    assert (first.coverage, first.pending, first.index, first.ready) == (0.0, 0, "absent", False)
    assert first.faults == (
        "chunks: 12 of 12 rows have neither vector nor job: backfill queues them",
        "chunks: its hnsw index is absent: build_index builds it",
    )
    await embeddings.backfill(space="new")
    await embeddings.process_pending(space="new", limit=5)
    second = await embeddings.verify("new")
    assert second.coverage == pytest.approx(5 / 12)
    assert second.pending == 7
    assert second.faults[0] == "chunks: 7 of 12 rows wait for their vector: process_pending embeds them"
    async with begun.service.session() as session:
        await session.execute(text("UPDATE llmstack.chunk_embedding_jobs SET attempts = 5"))
        await session.commit()
    third = await embeddings.verify("new")
    assert (third.pending, third.set_aside) == (0, 7)
    assert "7 of 12 rows were set aside after failing" in third.faults[0]
    assert await embeddings.retry_set_aside(space="new") == 7
    await embeddings.process_pending(space="new")
    await embeddings.build_index(space="new")
    last = await embeddings.verify("new")
    assert (last.coverage, last.pending, last.set_aside, last.index) == (1.0, 0, 0, "ready")
    assert (last.faults, last.ready) == ((), True)


async def test_the_recall_of_an_index_is_measured_and_one_that_finds_too_little_is_a_fault(
    grown: LLMStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    embeddings = grown.embeddings
    assert (await embeddings.verify("new", sample=5)).recall == 1.0
    assert (await embeddings.verify("new", sample=0)).recall is None
    await embeddings.drop_index(space="old")
    assert (await embeddings.verify("old")).recall is None
    for share in (-1.0, 95.0):
        with pytest.raises(ValidationError, match="least_recall"):
            await embeddings.verify("new", least_recall=share)
    with pytest.raises(ValidationError, match="sample"):
        await embeddings.verify("new", sample=-1)

    async def half(*arguments: Any, **more: Any) -> Recall:
        return Recall(sample=5, k=10, mean=0.5, lowest=0.1, owners=1, by_index=1.0)

    monkeypatch.setattr("llmstack.embeddings.service.measure_recall", half)
    low = await embeddings.verify("new")
    assert (low.recall, low.ready) == (0.5, False)
    assert low.faults[0].startswith("chunks: its index finds 50.0% of the nearest vectors")
    assert (await embeddings.verify("new", least_recall=0.5)).ready


async def test_a_space_without_an_index_method_needs_no_index(both: LLMStack, new: Model) -> None:
    await add_papers(both)
    await both.embeddings.add_space(new.embedder(), index_method="none")
    await both.embeddings.backfill(space="new")
    await both.embeddings.process_pending()
    assert (await both.embeddings.verify("new")).ready
    assert (await both.embeddings.cut_over("new")).index_method == "none"
    assert await found(both) == new.ranking[:10]


async def test_an_incomplete_space_is_not_cut_over_to_unless_by_force(begun: LLMStack, old: Model, new: Model) -> None:
    with pytest.raises(
        Conflict, match=r"cannot cut over to 'new': chunks: 12 of 12 rows .*; chunks: its hnsw index is absent"
    ):
        await begun.embeddings.cut_over("new")
    await begun.embeddings.backfill(space="new")
    await begun.embeddings.process_pending(space="new", limit=11)
    await begun.embeddings.build_index(space="new")
    with pytest.raises(Conflict, match="'new': chunks: 1 of 12 rows wait for their vector"):
        await begun.embeddings.cut_over("new")
    with pytest.raises(Conflict, match="1 of 12 rows"):
        await begun.embeddings.cut_over("new", least_coverage=0.95)
    assert await found(begun) == old.ranking[:10]
    assert (await begun.embeddings.cut_over("new", least_coverage=0.9)).name == "new"
    await begun.embeddings.roll_back()
    assert (await begun.embeddings.cut_over("new", force=True)).name == "new"
    assert await _defaults(begun) == ["new"]


@pytest.mark.parametrize("share", [-0.1, 1.1, 95])
async def test_a_share_that_is_none_is_refused(begun: LLMStack, share: float) -> None:
    with pytest.raises(ValidationError, match="least_coverage"):
        await begun.embeddings.cut_over("new", least_coverage=share)


async def test_a_cut_over_can_be_gone_back_from_and_repeated(grown: LLMStack, old: Model, new: Model) -> None:
    assert await found(grown) == old.ranking[:10]
    assert (await grown.embeddings.cut_over("new")).name == "new"
    assert await found(grown) == new.ranking[:10]
    await add(grown, "written under the new model")
    with pytest.raises(Conflict, match="cannot go back to 'old': chunks: 1 of 13 rows wait"):
        await grown.embeddings.roll_back()
    await grown.embeddings.process_pending()
    assert (await grown.embeddings.roll_back()).name == "old"
    assert await found(grown) == old.ranking[:10]
    assert (await grown.embeddings.cut_over("new")).name == "new"
    assert await found(grown) == new.ranking[:10]


async def test_going_back_asks_for_vectors_and_not_for_an_index(begun: LLMStack, old: Model) -> None:
    await begun.embeddings.cut_over("new", force=True)
    await add(begun, "owed to the old")
    with pytest.raises(Conflict, match=r"cannot go back to 'old': chunks: 1 of 13 rows [^;]*$"):
        await begun.embeddings.roll_back()
    assert (await begun.embeddings.roll_back(least_coverage=0.9)).name == "old"
    assert await found(begun) == old.ranking[:10]


async def test_going_back_twice_does_not_bring_back_what_was_gone_back_from(grown: LLMStack) -> None:
    await grown.embeddings.cut_over("new")
    answers = await asyncio.gather(*(grown.embeddings.roll_back() for _ in range(2)), return_exceptions=True)
    assert sorted(type(one).__name__ for one in answers) == ["Conflict", "Space"]
    assert await _defaults(grown) == ["old"]
    with pytest.raises(Conflict, match="no other space served"):
        await grown.embeddings.roll_back()


async def test_the_way_back_leads_through_every_space_that_served(
    grown: LLMStack, make_stack: MakeStack, old: Model, new: Model
) -> None:
    third = Model("third", dimensions=4, downwards=False)
    await grown.embeddings.add_space(third.embedder())
    for name in ("new", "third"):
        await grown.embeddings.cut_over(name, force=True)
    assert [(await grown.embeddings.roll_back()).name for _ in range(2)] == ["new", "old"]


async def test_cutting_over_to_what_serves_changes_nothing(grown: LLMStack) -> None:
    await grown.embeddings.cut_over("new")
    await grown.embeddings.cut_over("new")
    assert (await grown.embeddings.roll_back()).name == "old"


async def test_two_cut_overs_at_once_follow_one_another(
    grown: LLMStack, make_stack: MakeStack, old: Model, new: Model
) -> None:
    third = Model("third", dimensions=4, downwards=False)
    await grown.embeddings.add_space(third.embedder(), index_method="none")
    await grow_without_index(grown, "third")
    names = ["new", "third"] * 4
    stacks = [make_stack(old.embedder(), new.embedder(), third.embedder()) for _ in names]
    served = await asyncio.gather(*(stack.embeddings.cut_over(name) for stack, name in zip(stacks, names, strict=True)))
    assert {space.name for space in served} == {"new", "third"}
    assert len(await _defaults(grown)) == 1
    assert await _defaults(grown) in (["new"], ["third"])
    # Nobody's turn was lost: what does not serve is what the last one took over from.
    (last,) = await _defaults(grown)
    assert (await grown.embeddings.roll_back()).name == ({"new", "third"} - {last}).pop()


async def grow_without_index(stack: LLMStack, name: str) -> None:
    await stack.embeddings.backfill(space=name)
    await stack.embeddings.process_pending(space=name)


async def test_the_space_that_serves_cannot_be_retired(grown: LLMStack) -> None:
    with pytest.raises(Conflict, match="'old' serves; cut over"):
        await grown.embeddings.retire("old")
    assert (await grown.embeddings.verify("old")).ready


async def test_what_was_hidden_during_a_backfill_is_owed_when_it_is_restored(both: LLMStack, new: Model) -> None:
    added = await add(both, "paper 3")
    assert added.document is not None
    await both.documents.delete(owner_id="acme", document_id=added.document.id)
    await both.embeddings.add_space(new.embedder())
    await grow(both, "new")
    assert await places(both, "paper 3") == {"old": "vector"}
    await both.documents.restore(owner_id="acme", document_id=added.document.id)
    assert await places(both, "paper 3") == {"old": "vector", "new": "job"}


async def test_a_calibration_compares_in_one_space_whatever_is_cut_over_meanwhile(
    grown: LLMStack, old: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    await grown.embeddings.build_index(space="new")
    monkeypatch.setattr(calibration, "QUERIES_EMBEDDED_AT_ONCE", 5)

    async def second(texts: list[str]) -> None:
        old.before = None
        await grown.embeddings.cut_over("new")

    async def first(texts: list[str]) -> None:
        old.before = second

    old.before = first
    judged = [
        JudgedQuery(owner_id="acme", query=f"which paper {number}", relevant={f"paper {number}": 1.0})
        for number in range(COUNT)
    ]
    found = await grown.documents.calibrate(judged, minimum=COUNT, tune_text=False, dry_run=True)
    assert found.evidence["queries"] == COUNT
    assert old.before is None
    assert (await grown.embeddings.space()).name == "new"


async def test_retiring_takes_vectors_jobs_and_index_and_leaves_the_others(grown: LLMStack, new: Model) -> None:
    await grown.embeddings.cut_over("new")
    await add(grown, "owed to the old")
    assert await grown.embeddings.retire("old") == Retirement(space="old", vectors=12, jobs=1)
    assert await scalar(grown, "SELECT count(*) FROM pg_class WHERE relname LIKE 'ix_chunk_embeddings_s1%'") == 0
    first, second = await grown.embeddings.spaces()
    assert (first.state, first.vectors, first.index, first.pending) == ("retired", 0, "absent", 0)
    assert (second.state, second.vectors, second.index) == ("active", 13, "ready")
    assert await found(grown) == new.ranking[:10]
    await add(grown, "written later")
    assert await places(grown, "written later") == {"new": "vector"}
    with pytest.raises(Conflict, match="'old' served before, and is retired"):
        await grown.embeddings.roll_back(force=True)
    assert await grown.embeddings.retire("old") == Retirement(space="old", vectors=0, jobs=0)


async def test_a_retired_space_is_worked_on_by_no_verb(grown: LLMStack) -> None:
    await grown.embeddings.cut_over("new")
    await grown.embeddings.retire("old")
    embeddings = grown.embeddings
    for verb in (embeddings.backfill, embeddings.process_pending, embeddings.build_index, embeddings.retry_set_aside):
        with pytest.raises(Conflict, match="'old' is retired"):
            await verb(space="old")
    for force in (False, True):
        with pytest.raises(Conflict, match="retired"):
            await embeddings.cut_over("old", force=force)
    assert (await embeddings.pending(space="old")).waiting == 0
    assert "retired" in (await embeddings.verify("old")).faults[0]


async def test_the_shadow_can_be_given_up_without_waiting(make_stack: MakeStack, old: Model, new: Model) -> None:
    stack = make_stack(old.embedder(), new.embedder(), space_refresh=300.0)
    await add_papers(stack)
    await stack.embeddings.add_space(new.embedder())
    await stack.embeddings.backfill(space="new")
    await stack.embeddings.process_pending(space="new", limit=5)
    async with asyncio.timeout(30):
        assert await stack.embeddings.retire("new") == Retirement(space="new", vectors=5, jobs=7)
    assert await found(stack) == old.ranking[:10]


async def test_vectors_go_only_when_no_process_can_still_search_them(
    grown: LLMStack, only_old: LLMStack, old: Model
) -> None:
    await grown.embeddings.cut_over("new")
    assert await found(only_old) == old.ranking[:10]
    retiring = asyncio.create_task(grown.embeddings.retire("old"))
    answers = []
    while not retiring.done():
        try:
            answers.append(await found(only_old))
        except ConfigurationError:
            await asyncio.sleep(0.01)
    await retiring
    assert answers
    assert {tuple(answer) for answer in answers} == {tuple(old.ranking[:10])}


@pytest.mark.parametrize("moment", ["waiting", "jobs", "index", "vectors"])
async def test_a_retirement_that_was_broken_off_half_way_goes_on(
    grown: LLMStack, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    await grown.embeddings.cut_over("new")
    await add(grown, "owed to the old")
    monkeypatch.setattr("llmstack.embeddings.change.STATEMENT_ROWS", 2)
    places_to_stop = {
        "waiting": "asyncio.sleep",
        "jobs": "llmstack.embeddings.change.queue.forget_jobs",
        "index": "llmstack.embeddings.index.SpaceIndex.drop",
        "vectors": "llmstack.embeddings.change.queue.forget_vectors",
    }

    def stop(*arguments: Any, **more: Any) -> Any:
        if more.get("after") is not None or moment != "vectors":
            raise KeyboardInterrupt
        return forget(*arguments, **more)

    from llmstack.embeddings.queue import forget_vectors as forget

    with monkeypatch.context() as broken:
        broken.setattr(places_to_stop[moment], stop)
        with pytest.raises(KeyboardInterrupt):
            await grown.embeddings.retire("old")
    assert (await grown.embeddings.spaces())[0].vectors == (10 if moment == "vectors" else 12)
    done = await grown.embeddings.retire("old")
    assert done.vectors == (10 if moment == "vectors" else 12)
    first, second = await grown.embeddings.spaces()
    assert (first.state, first.vectors, first.pending, first.index) == ("retired", 0, 0, "absent")
    assert second.vectors == 13


async def test_many_vectors_go_in_pages_of_one_owner_and_of_many(
    grown: LLMStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmstack.embeddings.change.STATEMENT_ROWS", 3)
    for number in range(10):
        await add(grown, f"text {number}", owner_id=f"owner {number}")
    await grown.embeddings.process_pending()
    await grown.embeddings.cut_over("new")
    assert (await grown.embeddings.retire("old")).vectors == 22
    assert (await grown.embeddings.verify("new")).coverage == 1.0


async def test_the_name_of_a_retired_space_can_be_used_again_by_another(grown: LLMStack, new: Model) -> None:
    await grown.embeddings.cut_over("new")
    await grown.embeddings.retire("old")
    again = Model("old", dimensions=9, downwards=False)
    with pytest.raises(ConfigurationError, match="two embedders are named 'old'"):
        await grown.embeddings.add_space(again.embedder())


async def test_a_retired_space_that_is_added_again_is_another_one(
    grown: LLMStack, make_stack: MakeStack, new: Model
) -> None:
    await grown.embeddings.cut_over("new")
    await grown.embeddings.retire("old")
    again = Model("old", dimensions=9, downwards=False)
    stack = make_stack(new.embedder(), again.embedder())
    before = [space.id for space in await stack.embeddings.spaces()]
    space = await stack.embeddings.add_space(again.embedder(), distance="l2")
    assert space.id not in before
    assert (space.dimensions, space.distance) == (9, "l2")
    await grow(stack, "old")
    await stack.embeddings.cut_over("old")
    assert await found(stack) == again.ranking[:10]
    assert [(one.name, one.state) for one in await stack.embeddings.spaces()] == [
        ("old (retired 1)", "retired"), ("new", "active"), ("old", "active")
    ]  # fmt: skip


async def test_a_worker_of_a_space_that_is_retired_meanwhile_stores_nothing(begun: LLMStack, new: Model) -> None:
    await begun.embeddings.backfill(space="new")

    outrun: list[str] = []

    async def meanwhile(texts: list[str]) -> None:
        new.before = None
        outrun.extend(texts)
        await begun.embeddings.retire("new")

    new.before = meanwhile
    # Another worker of the same run may have claimed and stored some before.
    stored = (await begun.embeddings.process_pending(space="new")).embedded
    assert outrun
    assert stored == COUNT - len(outrun)
    assert await scalar(begun, "SELECT count(*) FROM llmstack.chunk_embeddings WHERE space_id = 2") == 0


async def test_a_backfill_and_a_run_that_were_broken_off_go_on_where_they_were(
    begun: LLMStack, new: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmstack.embeddings.service._BACKFILL_ROWS", 4)
    told: list[tuple[int, int]] = []

    def stop_at(number: int) -> Any:
        def progress(done: int, total: int) -> None:
            told.append((done, total))
            if done >= number:
                raise KeyboardInterrupt

        return progress

    with pytest.raises(KeyboardInterrupt):
        await begun.embeddings.backfill(space="new", progress=stop_at(8))
    assert told == [(4, 12), (8, 12)]
    assert await begun.embeddings.backfill(space="new") == 4

    stuck = asyncio.Event()

    async def get_stuck(texts: list[str]) -> None:
        if len(new.texts) >= 5:
            stuck.set()
            await asyncio.sleep(60)

    new.before = get_stuck
    slow = Settings(space_refresh=0, embedding_batch_size=1, embedding_concurrency=1)
    worker = LLMStack(engine=begun.database.engine, embedder=new.embedder(), settings=slow)
    running = asyncio.create_task(worker.embeddings.process_pending(space="new"))
    await stuck.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    new.before = None
    result = await begun.embeddings.process_pending(space="new")
    assert (result.embedded, result.remaining) == (7, 0)
    assert len(new.texts) == 12


async def test_a_run_without_a_name_works_through_every_space_that_is_known_the_serving_one_first(
    begun: LLMStack, only_old: LLMStack, make_stack: MakeStack, old: Model, new: Model
) -> None:
    nobody = make_stack("none")
    for number in range(3):
        await add(nobody, f"text {number}")
    assert (await begun.embeddings.pending()).waiting == 6
    assert (await only_old.embeddings.pending()).waiting == 3
    assert (await begun.embeddings.pending(space="new")).waiting == 3
    told: list[tuple[int, int]] = []
    assert (await begun.embeddings.process_pending(limit=4, progress=lambda *one: told.append(one))).remaining == 2
    assert told == [(2, 4), (3, 4), (4, 4)]
    assert (await only_old.embeddings.pending()).waiting == 0
    assert (await only_old.embeddings.process_pending()).embedded == 0
    with pytest.raises(ConfigurationError, match=r"'new' is not known .* knows 'old' alone.*LLMSTACK_OTHER_EMBEDDERS"):
        await only_old.embeddings.process_pending(space="new")
    assert (await begun.embeddings.process_pending()).embedded == 2


async def test_what_does_not_exist_is_not_found(begun: LLMStack) -> None:
    embeddings = begun.embeddings
    calls = [
        embeddings.backfill(space="newer"),
        embeddings.process_pending(space="newer"),
        embeddings.pending(space="newer"),
        embeddings.retry_set_aside(space="newer"),
        embeddings.build_index(space="newer"),
        embeddings.drop_index(space="newer"),
        embeddings.verify("newer"),
        embeddings.cut_over("newer"),
        embeddings.cut_over("newer", force=True),
        embeddings.retire("newer"),
    ]
    for call in calls:
        with pytest.raises(SpaceNotFound, match="'newer'"):
            await call


async def test_nothing_served_before_the_first_space(begun: LLMStack) -> None:
    with pytest.raises(Conflict, match="no other space served"):
        await begun.embeddings.roll_back()


async def test_indexes_are_built_and_dropped_by_the_name_of_the_space(begun: LLMStack) -> None:
    assert len(await begun.embeddings.build_index(space="new")) == 16 * len(begun.embeddings.tables)
    assert [space.index for space in await begun.embeddings.spaces()] == ["absent", "ready"]
    await begun.embeddings.drop_index(space="new")
    assert [space.index for space in await begun.embeddings.spaces()] == ["absent", "absent"]


async def test_a_role_that_owns_nothing_changes_the_model_and_leaves_the_index_to_the_owner(
    grown: LLMStack, engine: AsyncEngine, llmstack_server_url: str, old: Model, new: Model
) -> None:
    role = servers.unique_name()
    await servers.execute(llmstack_server_url, f"CREATE ROLE {quote(role)} LOGIN PASSWORD 'secret'")
    await apply_grants(engine, schema="llmstack", role=role)
    url = make_url(engine.url).set(username=role, password="secret")
    hosts = create_async_engine(url)
    try:
        stack = LLMStack(
            engine=hosts,
            embedder=old.embedder(),
            other_embedders=[new.embedder()],
            settings=Settings(space_refresh=0.1),
        )
        assert (await stack.embeddings.cut_over("new")).name == "new"
        assert await found(stack) == new.ranking[:10]
        third = Model("third", dimensions=4, downwards=False)
        await stack.embeddings.add_space(third.embedder())
        await stack.embeddings.backfill(space="third")
        assert await stack.embeddings.retire("third") == Retirement("third", vectors=0, jobs=12)
        with pytest.raises(DatabaseError, match=f"role '{role}' does not own the tables.*index of 'old'"):
            await stack.embeddings.retire("old")
        # Refused before anything was done.
        assert (await stack.embeddings.roll_back()).name == "old"
        assert await found(stack) == old.ranking[:10]
    finally:
        await hosts.dispose()
        await servers.execute(str(engine.url.render_as_string(hide_password=False)), f"DROP OWNED BY {quote(role)}")
        await servers.execute(llmstack_server_url, f"DROP ROLE {quote(role)}")


async def test_behind_a_pooler_an_index_is_not_dropped_half_way(
    grown: LLMStack, make_stack: MakeStack, old: Model, new: Model
) -> None:
    await grown.embeddings.cut_over("new")
    pooled = make_stack(new.embedder(), old.embedder(), behind_pooler=True)
    with pytest.raises(ConfigurationError, match="direct connection"):
        await pooled.embeddings.retire("old")
    assert (await grown.embeddings.verify("old")).ready


async def test_a_schema_with_an_awkward_name_changes_its_model_alone(
    llmstack_database: Database, grown: LLMStack, old: Model, new: Model
) -> None:
    other = LLMStack(
        engine=llmstack_database.engine,
        schema="Svc A",
        embedder=old.embedder(),
        other_embedders=[new.embedder()],
        settings=Settings(space_refresh=0.1),
    )
    await other.migrate()
    await add_papers(other)
    await other.embeddings.add_space(new.embedder())
    await grow(other, "new")
    await other.embeddings.cut_over("new")
    await other.embeddings.retire("old")
    assert await found(other) == new.ranking[:10]
    assert await found(grown) == old.ranking[:10]
    assert await _defaults(grown) == ["old"]
    await other.close()
