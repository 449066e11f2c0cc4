"""Calibration on corpora where it is known what it must find."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Sequence
from typing import Any

import pytest
from corpus_support import MakeWorld, Text, World, units, write
from document_support import vector_of
from sqlalchemy import func, select, update

from llmstack.db import CorpusStatistics
from llmstack.embeddings import CallableEmbedder
from llmstack.errors import Conflict, ValidationError
from llmstack.retrieval import CalibrationNotFound, JudgedQuery
from llmstack.retrieval.tuning import statistics
from llmstack.retrieval.tuning.measures import ALPHAS, TextSettings, fused, ndcg
from llmstack.search import Weighted
from llmstack.settings import Settings

COUNT = 60


def text_of(number: int) -> str:
    rng = random.Random(number)
    return " ".join([f"subject{number}", *(f"filler{rng.randrange(40)}" for _ in range(30))])


def about(number: int) -> list[Text]:
    """The text that is about a subject, and three that mention it."""
    return [
        Text(str(number), f"{text_of(number)} subject{number} subject{number}"),
        *(Text(f"{number}-{other}", f"{text_of(number)} filler{other}") for other in range(3)),
    ]


def judged(numbers: Sequence[int]) -> list[JudgedQuery]:
    return [JudgedQuery(owner_id="acme", query=f"subject{number}", relevant={str(number): 1}) for number in numbers]


def noise(content: str) -> list[float]:
    rng = random.Random(content)
    return [rng.gauss(0, 1) for _ in range(16)]


def embedder_of(vector: Any, *, dimensions: int) -> CallableEmbedder:
    return CallableEmbedder(lambda texts: [vector(one) for one in texts], name="test", dimensions=dimensions)


@pytest.fixture
async def noisy(make_world: MakeWorld) -> World:
    """Vectors that mean nothing beside words that tell everything."""
    world = make_world(embedder=embedder_of(noise, dimensions=16))
    await write(world, [one for number in range(COUNT) for one in about(number)])
    await world.corpus.refresh_statistics()
    await world.corpus.settle()
    return world


async def quality(world: World, numbers: Sequence[int], alpha: float) -> float:
    total = 0.0
    for number in numbers:
        hits = await world.corpus.search(owner_id="acme", query=f"subject{number}", fusion=Weighted(alpha=alpha))
        ids = [hit.id for hit in hits]
        total += ndcg(ids, dict(zip(ids, units(world, hits), strict=True)), {str(number): 1.0})
    return total / len(numbers)


async def settings_of(world: World) -> tuple[Any, ...]:
    async with world.stack.service.session() as session:
        columns = (CorpusStatistics.fusion_alpha, CorpusStatistics.bm25_k1, CorpusStatistics.bm25_b)
        mine = select(*columns).where(CorpusStatistics.corpus == world.corpus.corpus.name)
        row = (await session.execute(mine)).one()
    return tuple(None if value is None else round(value, 4) for value in row)


async def test_where_vectors_are_noise_alpha_goes_down_and_held_out_queries_rise(noisy: World) -> None:
    found = await noisy.corpus.calibrate(judged(range(30)), tune_text=False)
    assert found.before.alpha is None
    assert found.after.alpha is not None
    assert found.after.alpha < 0.5
    assert (await settings_of(noisy))[0] == found.after.alpha
    held_out = range(30, COUNT)
    assert await quality(noisy, held_out, found.after.alpha) > await quality(noisy, held_out, 0.5) + 0.01
    evidence = found.evidence["alpha"]
    assert evidence["gain"] > evidence["standard_error"]
    assert found.evidence["queries"] == 30
    assert found.evidence["source"] == "given"


async def scores(world: World, **more: Any) -> list[tuple[str, float]]:
    hits = await world.corpus.search(owner_id="acme", query="subject7 filler3", limit=50, **more)
    return [(unit, round(hit.score, 5)) for unit, hit in zip(units(world, hits), hits, strict=True)]


async def test_a_search_that_names_no_fusion_takes_the_stored_alpha_until_it_is_undone(noisy: World) -> None:
    before = await scores(noisy)
    assert before == await scores(noisy, alpha=0.5)
    found = await noisy.corpus.calibrate(judged(range(30)), tune_text=False)
    after = await scores(noisy)
    assert after == await scores(noisy, alpha=found.after.alpha)
    assert after != before
    assert await scores(noisy, alpha=0.5) == before
    await noisy.corpus.undo_calibration()
    assert await scores(noisy) == before


async def test_where_nothing_differs_the_default_stays_and_is_recorded(make_world: MakeWorld) -> None:
    last_line = embedder_of(lambda content: vector_of(content.split("\n")[-1]), dimensions=64)
    world = make_world(embedder=last_line)
    await write(world, [Text(str(number), f"subject{number}") for number in range(25)])
    found = await world.corpus.calibrate(judged(range(25)))
    assert not found.changed
    assert await settings_of(world) == (None, 1.2, 0.75)
    (kept,) = await world.corpus.calibrations()
    assert (kept.id, kept.after) == (found.id, found.before)


async def test_fewer_than_twenty_queries_are_refused_and_counted(noisy: World) -> None:
    with pytest.raises(ValidationError, match="19 judged queries are too few; 20 are needed"):
        await noisy.corpus.calibrate(judged(range(19)))
    # The same query twice is one.
    with pytest.raises(ValidationError, match="19 judged queries are too few"):
        await noisy.corpus.calibrate([*judged(range(19)), *judged(range(5))])
    with pytest.raises(ValidationError, match="0 judged queries are too few"):
        await noisy.corpus.calibrate()
    assert await noisy.corpus.calibrations() == []


async def test_a_dry_run_changes_and_stores_nothing(noisy: World) -> None:
    found = await noisy.corpus.calibrate(judged(range(30)), dry_run=True)
    assert found.id is None
    assert found.changed
    assert (await settings_of(noisy))[0] is None
    assert await noisy.corpus.calibrations() == []


async def test_undoing_puts_the_former_settings_back_one_calibration_at_a_time(noisy: World) -> None:
    first = await noisy.corpus.calibrate(judged(range(30)), tune_text=False)
    second = await noisy.corpus.calibrate(judged(range(30)), tune_text=False)
    assert second.before == first.after
    assert (await noisy.corpus.undo_calibration()).id == second.id
    assert (await settings_of(noisy))[0] == first.after.alpha
    undone = await noisy.corpus.undo_calibration()
    assert undone.undone_at is not None
    assert (await settings_of(noisy))[0] is None
    assert [one.id for one in await noisy.corpus.calibrations()] == [second.id, first.id]
    with pytest.raises(CalibrationNotFound):
        await noisy.corpus.undo_calibration()


async def test_two_schemas_share_no_calibration(noisy: World, make_world: MakeWorld) -> None:
    other = make_world(embedder=embedder_of(noise, dimensions=16), schema="support")
    await other.stack.migrate()
    await noisy.corpus.calibrate(judged(range(30)), tune_text=False)
    assert await other.corpus.calibrations() == []
    async with other.stack.service.session() as session:
        assert await session.scalar(select(func.count()).select_from(CorpusStatistics)) == 0
    with pytest.raises(CalibrationNotFound):
        await other.corpus.undo_calibration()


async def test_one_process_calibrates_at_a_time(noisy: World) -> None:
    async with noisy.corpus._calibrator._alone():
        with pytest.raises(Conflict, match="is being calibrated by another process"):
            await noisy.corpus.calibrate(judged(range(30)))
    assert (await noisy.corpus.calibrate(judged(range(30)))).changed


async def test_settings_that_change_meanwhile_are_not_overwritten(
    noisy: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    calibrator = noisy.corpus._calibrator
    run = calibrator.legs

    async def meanwhile(queries: Any, *, tune_text: bool) -> Any:
        async with noisy.stack.service.session() as session:
            await session.execute(update(CorpusStatistics).values(bm25_k1=2.0))
            await session.commit()
        return await run(queries, tune_text=tune_text)

    monkeypatch.setattr(calibrator, "legs", meanwhile)
    with pytest.raises(Conflict, match="changed while they were calibrated"):
        await noisy.corpus.calibrate(judged(range(30)))
    assert await settings_of(noisy) == (None, 2.0, 0.75)


async def test_the_ranking_of_every_alpha_is_that_of_the_statement(make_world: MakeWorld) -> None:
    world = make_world()
    await write(world, [Text(str(number), text_of(number % 25)) for number in range(40)])
    await world.corpus.refresh_statistics()
    await world.corpus.settle()
    queries = [
        JudgedQuery(owner_id="acme", query=f"subject{number} filler{number} filler3", relevant={"1": 1})
        for number in range(8)
    ]
    found = await world.corpus._calibrator.legs(queries, tune_text=False)
    for one, legs in zip(queries, found, strict=True):
        for alpha, ranked in zip(ALPHAS, fused(legs.text, legs.vector, ALPHAS), strict=True):
            hits = await world.corpus.search(owner_id="acme", query=one.query, alpha=alpha, limit=200)
            scores = {hit.id: hit.score for hit in hits}
            assert sorted(scores) == sorted(ranked)
            # Sums in another order may part what is equal but for the last digit.
            assert [scores[key] for key in ranked] == pytest.approx([hit.score for hit in hits], abs=1e-12)


async def test_bm25_by_arithmetic_is_that_of_the_index(make_world: MakeWorld) -> None:
    world = make_world(embedder="none")
    await write(
        world,
        [
            Text(str(number), text_of(number), title=f"About subject{number} and filler{number % 7}")
            for number in range(COUNT)
        ],
    )
    await world.corpus.refresh_statistics()
    await world.corpus.settle()
    for k1, b, weight in ((1.2, 0.75, 1.0), (0.9, 0.4, 4.0), (1.6, 0.0, 0.0)):
        await world.corpus.reweigh(k1=k1, b=b, context_weight=weight, average_length=20.0)
        for legs in await world.corpus._calibrator.legs(judged(range(5)), tune_text=True):
            counted = {row.id: row.score(TextSettings(k1, b, weight), 20.0) for row in legs.pool}
            assert legs.text
            for key, score in legs.text.items():
                assert counted[key] == pytest.approx(score, abs=2e-3)


async def titled(world: World) -> list[JudgedQuery]:
    """A word in the title is what a text is about; in the text of others it stands more often."""
    inputs: list[Text] = []
    for number in range(40):
        inputs.append(Text(f"about{number}", "filler " * 30, title=f"Guide topic{number}"))
        inputs.append(Text(f"beside{number}", f"topic{number} " * 3 + "filler " * 20, title="Guide other"))
    await write(world, inputs)
    await world.corpus.refresh_statistics()
    await world.corpus.settle()
    return [
        JudgedQuery(owner_id="acme", query=f"topic{number}", relevant={f"about{number}": 1}) for number in range(40)
    ]


async def weighed_by(world: World) -> set[float]:
    async with world.stack.service.session() as session:
        return set(await session.scalars(select(world.corpus.corpus.rows.bm25_context_weight).distinct()))


async def test_a_title_that_tells_more_is_given_more_weight_and_rows_are_rewritten(make_world: MakeWorld) -> None:
    world = make_world(embedder="none")
    queries = await titled(world)
    found = await world.corpus.calibrate(queries[:25])
    assert found.after.context_weight > 1
    assert await weighed_by(world) == {found.after.context_weight}
    assert "alpha" not in found.evidence
    for one in queries[25:]:
        hits = await world.corpus.search(owner_id="acme", query=one.query)
        assert units(world, hits)[:1] == list(one.relevant)
    await world.corpus.undo_calibration()
    assert await weighed_by(world) == {1.0}


async def test_an_unfinished_rewrite_is_resumed_by_reweigh(make_world: MakeWorld) -> None:
    world = make_world(embedder="none")
    await titled(world)
    assert await world.corpus.reweigh(context_weight=3) == 80
    async with world.stack.service.session() as session:
        rows: Any = world.corpus.corpus.rows
        some = update(rows).where(rows.id.in_(select(rows.id).limit(7))).values(bm25_context_weight=1)
        await session.execute(some, execution_options={"synchronize_session": False})
        await session.commit()
    assert await world.corpus.reweigh() == 7
    assert await weighed_by(world) == {3.0}


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("k1", -0.1), ("k1", 10.5), ("k1", float("nan")), ("k1", True), ("k1", "1"), ("b", 1.01), ("b", -1),
        ("average_length", 0), ("average_length", -5), ("average_length", float("inf")), ("context_weight", 101),
        ("context_weight", -1),
    ],
)  # fmt: skip
async def test_a_parameter_that_bm25_cannot_have_is_refused_by_name(world: World, parameter: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=f"^{parameter}: it must be"):
        await world.corpus.reweigh(**{parameter: value})


async def test_new_rows_are_weighed_as_the_corpus_was_told(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No small corpus is weighed anew behind the test's back.
    monkeypatch.setattr(statistics, "REWEIGHED_UNASKED", -1)
    world = make_world(embedder="none")
    assert await world.corpus.reweigh(k1=0.9, b=0.4, average_length=30, context_weight=2) == 0
    await write(world, [Text("1")])
    rows = world.corpus.corpus.rows
    columns = (rows.bm25_k1, rows.bm25_b, rows.bm25_average_length, rows.bm25_context_weight)
    async with world.stack.service.session() as session:
        row = (await session.execute(select(*columns))).one()
    assert tuple(round(value, 4) for value in row) == (0.9, 0.4, 30.0, 2.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"relevant": {}}, "nothing is relevant"),
        ({"relevant": {"1": 0}}, "nothing is relevant"),
        ({"relevant": {"1": -1}}, "a grade is a number"),
        ({"relevant": {"1": float("nan")}}, "a grade is a number"),
        ({"relevant": {"1": True}}, "a grade is a number"),
        ({"relevant": ["1"]}, "it is a mapping"),
        ({"relevant": {7: 1}}, "it must be a text"),
        ({"query": "  "}, "it is empty"),
        ({"query": "a\x00"}, "NUL"),
        ({"owner_id": ""}, "it is empty"),
    ],
)
async def test_a_judgement_that_means_nothing_is_refused(noisy: World, change: dict[str, Any], message: str) -> None:
    bad = JudgedQuery(**{"owner_id": "acme", "query": "q", "relevant": {"1": 1}, **change})
    with pytest.raises(ValidationError, match=message):
        await noisy.corpus.calibrate([*judged(range(25)), bad])


@pytest.mark.parametrize(
    "rule",
    [
        {"minimum": 1}, {"minimum": 2.5}, {"standard_errors": -1}, {"standard_errors": float("nan")},
        {"standard_errors": "1"}, {"owner_id": "acme"},
    ],
)  # fmt: skip
async def test_a_rule_that_cannot_be_is_refused(noisy: World, rule: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(rule))):
        await noisy.corpus.calibrate(judged(range(25)), **rule)


async def test_rows_can_be_judged_and_absent_ones_are_only_never_found(noisy: World) -> None:
    queries = []
    for one in judged(range(25)):
        hits = await noisy.corpus.search(owner_id="acme", query=one.query, mode="text", limit=1)
        queries.append(JudgedQuery(owner_id="acme", query=one.query, relevant={hits[0].id: 2, uuid.uuid4(): 1}))
    found = await noisy.corpus.calibrate(queries, tune_text=False)
    assert found.after.alpha is not None
    assert found.after.alpha < 0.5


async def test_searches_go_on_while_it_calibrates(noisy: World) -> None:
    running = asyncio.create_task(noisy.corpus.calibrate(judged(range(30))))
    searched = 0
    while not running.done():
        assert await noisy.corpus.search(owner_id="acme", query="subject1")
        searched += 1
    await running
    assert searched > 3


async def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="search_log_retention"):
        Settings(search_log_retention=0)
