"""A corpus is searched by all modes and filters, and shows its living rows alone."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pytest
from corpus_support import MakeWorld, World, units
from notes import NotesBase
from sqlalchemy import text
from sqlalchemy.orm import Mapped, mapped_column

from llmstack.errors import ConfigurationError, DatabaseBehind, ValidationError
from llmstack.retrieval import Corpus, Filter, SearchHit, SearchNotFound
from llmstack.search import SearchableMixin

MODES: list[Any] = ["text", "vector", "hybrid"]


@pytest.mark.parametrize("mode", MODES)
async def test_every_mode_finds_the_best_first_and_owners_see_their_own(world: World, mode: Any) -> None:
    await world.add({"kettle": "boil water in the kettle", "leave": "parental leave", "tax": "tax law"})
    await world.add({"theirs": "boil water in the kettle"}, owner_id="umbrella")
    hits = await world.corpus.search(owner_id="acme", query="kettle water", mode=mode)
    assert units(world, hits)[0] == "kettle"
    assert "theirs" not in units(world, hits)
    assert hits[0].content == "boil water in the kettle"
    assert await world.corpus.search(owner_id="nobody", query="kettle", mode=mode) == []


@pytest.mark.parametrize("mode", MODES)
async def test_a_filter_of_the_corpus_narrows_every_leg(world: World, mode: Any) -> None:
    await world.add({"one": "kettle"}, metadata={"team": "hr", "year": 2020})
    await world.add({"two": "kettle"}, metadata={"team": "it", "year": 2024})
    for where, expected in ((world.where(team="hr"), ["one"]), (world.where(year={"$gt": 2021}), ["two"])):
        assert (
            units(world, await world.corpus.search(owner_id="acme", query="kettle", mode=mode, where=where)) == expected
        )


@pytest.mark.parametrize("mode", MODES)
async def test_hidden_rows_are_not_found_until_they_are_shown_again(world: World, mode: Any) -> None:
    await world.add({"one": "kettle", "two": "kettle"})
    await world.delete("one")
    assert units(world, await world.corpus.search(owner_id="acme", query="kettle", mode=mode)) == ["two"]
    await world.restore("one")
    found = units(world, await world.corpus.search(owner_id="acme", query="kettle", mode=mode))
    assert sorted(found) == ["one", "two"]


@pytest.mark.parametrize("mode", MODES)
async def test_an_edited_text_is_found_by_its_new_words_alone(world: World, mode: Any) -> None:
    await world.add({"one": "kettle", "two": "parental leave"})
    await world.add({"one": "rocket"})
    (first, *_) = await world.corpus.search(owner_id="acme", query="rocket", mode=mode)
    assert units(world, [first]) == ["one"]
    assert first.content == "rocket"
    if mode == "text":
        assert await world.corpus.search(owner_id="acme", query="kettle", mode=mode) == []


async def test_what_a_corpus_cannot_answer_is_refused_before_anything_is_embedded(world: World, words: Any) -> None:
    bad: list[dict[str, Any]] = [{"group_by": "chapter"}, {"where": {"a": 1}}, {"where": Filter()}, {"limit": 0}]
    for given in bad:
        with pytest.raises(ValidationError, match=next(iter(given))):
            await world.corpus.search(owner_id="acme", query="kettle", **given)
    assert words.calls == 0


def test_a_filter_is_written_and_read_back_as_it_was(world: World) -> None:
    where, moment = world.corpus.corpus.where, dt.datetime(2024, 5, 1, tzinfo=dt.UTC)
    part = "since" if world.corpus.corpus.name == "notes" else "date_from"
    given = where(**{part: moment, "metadata": {"n": {"$in": [1]}}})
    assert where.from_json(json.loads(json.dumps(given.as_json()))) == given
    assert where().as_json() is None
    assert where.from_json(None) == where()
    # Its log is not what refuses it.
    assert where(metadata={"a": len}).as_json() is not None
    for bad in ({"strange": 1}, {part: "yesterday"}):
        with pytest.raises(ValidationError, match="where"):
            where.from_json(bad)


async def test_schemas_do_not_see_one_anothers_log(make_world: MakeWorld) -> None:
    here, there = make_world(search_log=True), make_world(search_log=True, schema="elsewhere")
    await there.stack.migrate()
    await here.add({"one": "kettle"})
    hits = await here.corpus.search(owner_id="acme", query="kettle", mode="text")
    assert (await there.corpus.searches(owner_id="acme")).total == 0
    with pytest.raises(SearchNotFound):
        await there.corpus.record_feedback(owner_id="acme", search_id=hits.search_id or "", grades={"one": 1})


async def test_a_corpus_is_registered_once_by_its_name(world: World) -> None:
    corpus: Corpus[Any, Any] = world.corpus.corpus
    assert world.stack.corpus(corpus) is world.corpus
    twin = Corpus(name=corpus.name, rows=corpus.rows, hit=SearchHit, where=Filter)
    with pytest.raises(ConfigurationError, match="two corpora"):
        world.stack.corpus(twin)


async def test_parts_that_do_not_belong_together_are_refused(world: World) -> None:
    corpus: Corpus[Any, Any] = world.corpus.corpus
    with pytest.raises(ConfigurationError, match="__corpus__ = 'strange'"):
        world.stack.corpus(Corpus(name="strange", rows=corpus.rows, hit=SearchHit, where=Filter))
    world.stack.corpora.pop(corpus.name)
    twice = {"show": lambda statement, row: statement.add_columns(row.content)}
    for more, said in (
        ({"hit": corpus.hit}, "shows no column"),
        ({"unit": "isbn"}, "has no field 'isbn'"),
        (twice, "two columns named 'content'"),
    ):
        given: dict[str, Any] = {"name": corpus.name, "rows": corpus.rows, "hit": SearchHit, "where": Filter, **more}
        with pytest.raises(ConfigurationError, match=said):
            world.stack.corpus(Corpus(**given))
    without = world.stack.corpus(Corpus(name=corpus.name, rows=corpus.rows, hit=SearchHit, where=Filter))
    await world.add({"one": "kettle"})
    assert (await without.search(owner_id="acme", query="kettle")).mode == "text"
    for given in ({"mode": "vector"}, {"recency": None, "neighbours": 1}, {"group_by": "folder"}):
        with pytest.raises(ValidationError, match=list(given)[-1]):
            await without.search(owner_id="acme", query="kettle", **given)
    await world.corpus.settle()


class Numbered(SearchableMixin, NotesBase):
    __tablename__ = "numbered"
    __corpus__ = "numbered"

    id: Mapped[int] = mapped_column(primary_key=True)


@pytest.mark.parametrize("kind", ["notes"], indirect=True)
async def test_rows_without_a_uuid_and_tables_that_are_not_there_are_told_as_such(
    world: World,
) -> None:
    with pytest.raises(ConfigurationError, match=r"Numbered\.id is no UUID"):
        world.stack.corpus(Corpus(name="numbered", rows=Numbered, hit=SearchHit, where=Filter))
    async with world.stack.service.session() as session:
        await session.execute(text("DROP SCHEMA notebook CASCADE"))
        await session.commit()
    for verb in (world.corpus.search(owner_id="acme", query="kettle"), world.corpus.refresh_statistics()):
        with pytest.raises(DatabaseBehind, match="does not exist; create it by the migrations that it belongs to"):
            await verb
