"""The queue of vectors that are still owed, as statements."""

from __future__ import annotations

import dataclasses
import datetime as dt
import uuid
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    DateTime,
    Executable,
    Float,
    Select,
    SmallInteger,
    Table,
    Text,
    Uuid,
    and_,
    bindparam,
    case,
    column,
    delete,
    exists,
    func,
    literal,
    null,
    select,
    true,
    tuple_,
    update,
)
from sqlalchemy import cast as sql_cast
from sqlalchemy.dialects.postgresql import ARRAY, INTERVAL, Insert, insert
from sqlalchemy.sql.selectable import TableValuedAlias
from sqlalchemy.types import TypeEngine

from .models import EmbeddingSpace
from .spaces import Space
from .tables import EmbeddedTable, core_table
from .vectors import vector_type

_FIRST_PAUSE, _LONGEST_PAUSE = 5.0, 3600.0


@dataclasses.dataclass(frozen=True)
class Claim:
    """A job in a worker's hands until its lease ends; the end of the lease is also its token."""

    owner_id: str
    row_id: uuid.UUID
    leased_until: dt.datetime
    text: str = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True)
class PendingCounts:
    """Jobs by what happens to them next; a job that waits after a failure counts as leased."""

    waiting: int
    leased: int
    set_aside: int


def _array(values: Sequence[Any], type_: TypeEngine[Any]) -> ColumnElement[Any]:
    return sql_cast(bindparam(None, list(values), type_=ARRAY(type_), unique=True), ARRAY(type_))


def _given(claims: Sequence[Claim], **more: tuple[Sequence[Any], TypeEngine[Any]]) -> TableValuedAlias:
    """The claims as rows of a statement, with further columns."""
    columns: dict[str, tuple[Sequence[Any], TypeEngine[Any]]] = {
        "owner_id": ([claim.owner_id for claim in claims], Text()),
        "row_id": ([claim.row_id for claim in claims], Uuid()),
        "leased_until": ([claim.leased_until for claim in claims], DateTime(timezone=True)),
        **more,
    }
    arrays = [_array(values, type_) for values, type_ in columns.values()]
    typed = [column(name, type_) for name, (_, type_) in columns.items()]
    return func.unnest(*arrays).table_valued(*typed, name="given").render_derived()


def _is_free(jobs: Table) -> ColumnElement[bool]:
    return jobs.c.leased_until.is_(None) | (jobs.c.leased_until <= func.now())


def _same(jobs: Any, other: Any) -> ColumnElement[bool]:
    return and_(jobs.owner_id == other.owner_id, jobs.row_id == other.row_id)


def _held(jobs: Table, given: TableValuedAlias, space: Space) -> ColumnElement[bool]:
    """The job is still under the lease with which it was claimed."""
    return and_(_same(jobs.c, given.c), jobs.c.space_id == space.id, jobs.c.leased_until == given.c.leased_until)


def _of_row(table: EmbeddedTable, other: Any) -> ColumnElement[bool]:
    return and_(table.rows.owner_id == other.owner_id, table.rows.id == other.row_id)


def claim(
    table: EmbeddedTable, space: Space, *, owner_id: str | None, limit: int, lease: float, attempts: int
) -> Executable:
    """Lease up to `limit` jobs that no one holds; a job that another worker is just taking is passed over."""
    jobs = core_table(table.jobs)
    due = (
        select(jobs.c.owner_id, jobs.c.row_id, table.text.label("text"))
        .select_from(jobs)
        .join(table.rows, _of_row(table, jobs.c))
        .where(jobs.c.space_id == space.id, jobs.c.attempts < attempts, _is_free(jobs), table.wanted)
        # Along the index: what nobody has tried comes first, nothing is sorted, and what is set aside is not read.
        .order_by(jobs.c.attempts, jobs.c.leased_until)
        .limit(limit)
        .with_for_update(of=jobs, skip_locked=True)
    )
    if owner_id is not None:
        due = due.where(jobs.c.owner_id == owner_id)
    found = due.cte("due")
    return (
        update(jobs)
        .where(_same(jobs.c, found.c), jobs.c.space_id == space.id)
        .values(leased_until=func.now() + _seconds(literal(lease)), attempts=jobs.c.attempts + 1)
        .returning(jobs.c.owner_id, jobs.c.row_id, jobs.c.leased_until, found.c.text)
    )


def _seconds(number: ColumnElement[Any]) -> ColumnElement[Any]:
    return sql_cast(number, Float) * sql_cast(literal("1 second", Text), INTERVAL)


def lock_rows(table: EmbeddedTable, claims: Sequence[Claim]) -> Select[Any]:
    """Keep the claimed rows as they are; rows before jobs, which is the order of a deletion."""
    return (
        select(table.rows.id)
        .where(table.rows.id == func.any(_array([claim.row_id for claim in claims], Uuid())))
        .order_by(table.rows.id)
        .with_for_update(read=True, of=table.rows)
    )


def store(table: EmbeddedTable, space: Space, claims: Sequence[Claim], vectors: Sequence[str]) -> Executable:
    """Delete the jobs that are still held and keep their vectors; returns the ids of their rows.

    Run `lock_rows` before it in the same transaction: a row that is hidden meanwhile would be searchable.
    """
    jobs, embeddings = core_table(table.jobs), core_table(table.embeddings)
    given = _given(claims, vector=(vectors, Text()))
    done = (
        delete(jobs)
        .where(_held(jobs, given, space))
        .returning(jobs.c.owner_id, jobs.c.row_id, given.c.vector)
        .cte("done")
    )
    target = "embedding" if space.storage == "halfvec" else "embedding_full"
    vector = sql_cast(done.c.vector, vector_type(space))
    space_id = literal(space.id, SmallInteger)
    put = insert(embeddings).from_select(
        ["owner_id", "row_id", "space_id", target, "searchable"],
        select(done.c.owner_id, done.c.row_id, space_id, vector, table.wanted).join_from(
            done, table.rows, _of_row(table, done.c)
        ),
    )
    return put.on_conflict_do_update(
        index_elements=["owner_id", "row_id", "space_id"],
        set_={target: put.excluded[target], "searchable": put.excluded.searchable},
    ).returning(embeddings.c.row_id)


def fail(
    table: EmbeddedTable,
    space: Space,
    claims: Sequence[Claim],
    *,
    errors: Sequence[str],
    counted: Sequence[bool],
    attempts: int,
) -> Executable:
    """Record the errors; the lease stays as a pause that doubles, unless the job is set aside."""
    jobs = core_table(table.jobs)
    given = _given(claims, error=(errors, Text()), returned=([int(not value) for value in counted], SmallInteger()))
    made = jobs.c.attempts - given.c.returned
    pause = func.least(_LONGEST_PAUSE, _FIRST_PAUSE * func.power(2.0, func.greatest(made - 1, 0)))
    return (
        update(jobs)
        .where(_held(jobs, given, space))
        .values(
            attempts=made,
            last_error=given.c.error,
            leased_until=case((made >= attempts, null()), else_=func.now() + _seconds(pause)),
        )
    )


def release(table: EmbeddedTable, space: Space, claims: Sequence[Claim]) -> Executable:
    """Give leases back as if they had never been taken."""
    jobs = core_table(table.jobs)
    return (
        update(jobs).where(_held(jobs, _given(claims), space)).values(leased_until=null(), attempts=jobs.c.attempts - 1)
    )


def retry(table: EmbeddedTable, space: Space, *, owner_id: str | None, attempts: int) -> Executable:
    """Make jobs that were set aside new again."""
    jobs = core_table(table.jobs)
    statement = (
        update(jobs)
        .where(jobs.c.space_id == space.id, jobs.c.attempts >= attempts, _is_free(jobs))
        .values(attempts=0, leased_until=null())
    )
    return statement if owner_id is None else statement.where(jobs.c.owner_id == owner_id)


def count(table: EmbeddedTable, names: Iterable[str] | None, *, owner_id: str | None, attempts: int) -> Executable:
    """Waiting, leased and set-aside jobs of rows that want a vector, in living spaces of these names or in all."""
    jobs = core_table(table.jobs)
    is_free = _is_free(jobs)
    statement = (
        select(
            func.count().filter(is_free, jobs.c.attempts < attempts),
            func.count().filter(~is_free),
            func.count().filter(is_free, jobs.c.attempts >= attempts),
        )
        .select_from(jobs)
        .join(table.rows, _of_row(table, jobs.c))
        .where(table.wanted, jobs.c.space_id.in_(_living(names)))
    )
    return statement if owner_id is None else statement.where(jobs.c.owner_id == owner_id)


def _living(names: Iterable[str] | None) -> Select[Any]:
    living = select(EmbeddingSpace.id).where(EmbeddingSpace.state != "retired")
    return living if names is None else living.where(EmbeddingSpace.name.in_(list(names)))


def enqueue(
    table: EmbeddedTable, space: Space, *, owner_id: str | None, after: uuid.UUID | None, limit: int
) -> Select[Any]:
    """Make jobs for a page of wanted rows without vector or job; return their number and the last id."""
    rows, jobs, embeddings = table.rows, core_table(table.jobs), core_table(table.embeddings)
    missing = (
        select(rows.owner_id, rows.id)
        .where(table.wanted)
        .where(_has_none(embeddings, table, space.id), _has_none(jobs, table, space.id))
        .where(exists().where(EmbeddingSpace.id == space.id, EmbeddingSpace.state != "retired"))
        .order_by(rows.id)
        .limit(limit)
        .with_for_update(read=True, key_share=True, of=rows)
    )
    if owner_id is not None:
        missing = missing.where(rows.owner_id == owner_id)
    if after is not None:
        missing = missing.where(rows.id > after)
    page = missing.cte("page")
    made = (
        insert(jobs)
        .from_select(
            ["owner_id", "row_id", "space_id"],
            select(page.c.owner_id, page.c.id, literal(space.id, SmallInteger)),
        )
        .on_conflict_do_nothing()
        .returning(jobs.c.row_id)
        .cte("made")
    )
    number = select(func.count()).select_from(made).scalar_subquery()
    last = select(page.c.id).order_by(page.c.id.desc()).limit(1).scalar_subquery()
    return select(number, last)


def _has_none(other: Table, table: EmbeddedTable, space_id: Any) -> ColumnElement[bool]:
    """The row has no vector, or no job, in the space: looked up for each row, in its partition alone."""
    found = select(literal(1)).where(_of_row(table, other.c), other.c.space_id == space_id)
    # An OFFSET, for without it a page of rows becomes a join that reads the vectors of all.
    return ~found.offset(0).exists()


def owe(
    table: EmbeddedTable, row_ids: Sequence[uuid.UUID], *, are_new: bool = False, but: int | None = None
) -> Executable:
    """Make jobs for wanted rows in every living space, `but` one, in which they have no vector; new rows have none."""
    owed = _owed(table, row_ids)
    if not are_new:
        owed = owed.where(_has_none(core_table(table.embeddings), table, EmbeddingSpace.id))
    if but is not None:
        owed = owed.where(EmbeddingSpace.id != but)
    return _owing(table, owed).on_conflict_do_nothing()


def owe_again(table: EmbeddedTable, row_ids: Sequence[uuid.UUID]) -> Executable:
    """Make jobs for wanted rows in every living space, whatever vectors they have; a job that is there begins anew.

    Its lease ends, so that what a worker makes of the text that it claimed is not stored.
    """
    anew = {"attempts": 0, "leased_until": null(), "last_error": null()}
    return _owing(table, _owed(table, row_ids)).on_conflict_do_update(
        index_elements=["owner_id", "row_id", "space_id"], set_=anew
    )


def _owed(table: EmbeddedTable, row_ids: Sequence[uuid.UUID]) -> Select[Any]:
    rows = table.rows
    return (
        select(rows.owner_id, rows.id, EmbeddingSpace.id)
        .select_from(rows)
        .join(EmbeddingSpace, EmbeddingSpace.state != "retired")
        .where(rows.id == func.any(_array(row_ids, Uuid())), table.wanted)
        # Whoever makes the same jobs at this moment makes them in this order too.
        .order_by(rows.id, EmbeddingSpace.id)
    )


def _owing(table: EmbeddedTable, owed: Select[Any]) -> Insert:
    return insert(core_table(table.jobs)).from_select(["owner_id", "row_id", "space_id"], owed)


def mark(table: EmbeddedTable, owner_id: str, row_ids: Sequence[uuid.UUID], *, searchable: bool) -> Executable:
    """Say of the vectors of an owner's rows whether they are searched."""
    embeddings = core_table(table.embeddings)
    return update(embeddings).where(*_of_owner(embeddings, owner_id, row_ids)).values(searchable=searchable)


def forget_rows(table: EmbeddedTable, owner_id: str, row_ids: Sequence[uuid.UUID]) -> Executable:
    """Delete the vectors of an owner's rows in every space."""
    embeddings = core_table(table.embeddings)
    return delete(embeddings).where(*_of_owner(embeddings, owner_id, row_ids))


def _of_owner(embeddings: Table, owner_id: str, row_ids: Sequence[uuid.UUID]) -> tuple[ColumnElement[bool], ...]:
    # Both parts of the key: the rows are then looked up in the owner's partition alone.
    return embeddings.c.owner_id == owner_id, embeddings.c.row_id == func.any(_array(row_ids, Uuid()))


def forget_jobs(table: EmbeddedTable, space: Space, *, limit: int) -> Executable:
    """Delete jobs of a space, up to `limit` at a time."""
    jobs = core_table(table.jobs)
    page = select(jobs.c.owner_id, jobs.c.row_id).where(jobs.c.space_id == space.id).limit(limit).cte("page")
    return delete(jobs).where(_same(jobs.c, page.c), jobs.c.space_id == space.id)


def forget_vectors(
    table: EmbeddedTable, space: Space, *, after: tuple[str, uuid.UUID] | None, limit: int
) -> Select[Any]:
    """Delete a page of a space's vectors along the key; return their number and the key of the last one."""
    embeddings = core_table(table.embeddings)
    key = tuple_(embeddings.c.owner_id, embeddings.c.row_id)
    # Along the key: once the space's index is gone, nothing else leads to its vectors but a scan of the table.
    found = select(*key.clauses).where(embeddings.c.space_id == space.id).order_by(*key.clauses).limit(limit)
    if after is not None:
        found = found.where(key > tuple_(literal(after[0], Text), literal(after[1], Uuid)))
    page = found.cte("page")
    gone = (
        delete(embeddings)
        .where(_same(embeddings.c, page.c), embeddings.c.space_id == space.id)
        .returning(embeddings.c.row_id)
        .cte("gone")
    )
    number = select(func.count()).select_from(gone).scalar_subquery()
    last = select(page).order_by(page.c.owner_id.desc(), page.c.row_id.desc()).limit(1).subquery()
    one = select(number.label("number")).subquery()
    return select(one.c.number, last.c.owner_id, last.c.row_id).select_from(one).outerjoin(last, true())


def coverage(table: EmbeddedTable) -> Select[Any]:
    """For each space: its id, its vectors, and those of rows that want one."""
    embeddings = core_table(table.embeddings)
    return (
        select(embeddings.c.space_id, func.count(), func.count().filter(table.wanted))
        .select_from(embeddings)
        .join(table.rows, _of_row(table, embeddings.c))
        .group_by(embeddings.c.space_id)
    )


def owed(table: EmbeddedTable, *, attempts: int) -> Select[Any]:
    """For each space: its id, the jobs of rows that want a vector, and those of them that were set aside."""
    jobs = core_table(table.jobs)
    aside = func.count().filter(_is_free(jobs), jobs.c.attempts >= attempts)
    return (
        select(jobs.c.space_id, func.count() - aside, aside)
        .select_from(jobs)
        .join(table.rows, _of_row(table, jobs.c))
        .where(table.wanted)
        .group_by(jobs.c.space_id)
    )


def wanted_rows(table: EmbeddedTable) -> Select[Any]:
    """The number of rows that want a vector."""
    return select(func.count()).select_from(table.rows).where(table.wanted)
