"""What tunes a search and remembers it: the verbs of calibration, of the search log, and of its feedback."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Mapping, Sequence

from sqlalchemy.ext.asyncio import AsyncSession

from ..db.database import Service
from ..errors import ValidationError
from .calibration import Calibration, Calibrator
from .feedback import Feedback, FeedbackRepository, JudgedQuery, Key, RecordedSearch
from .queries import check_limit
from .records import Page
from .search_log import SearchLog


class TuningVerbs:
    """The part of `stack.documents` that tunes its search."""

    _service: Service
    _log: SearchLog
    _calibrator: Calibrator

    async def calibrate(
        self,
        judged: Sequence[JudgedQuery] | None = None,
        *,
        owner_id: str | None = None,
        minimum: int = 20,
        standard_errors: float = 1.0,
        tune_text: bool = True,
        dry_run: bool = False,
    ) -> Calibration:
        """Choose alpha, k1, b and the weight of the context for all owners of this schema, and store the choice.

        By judged queries, or by recorded feedback (of one owner, or of all). What is in force stays unless the best
        setting gains more than `standard_errors` standard errors of the paired differences of nDCG@10; of settings
        that are as good as the best it is that nearest to the default. Chosen text settings rewrite the chunks'
        weights, a batch at a time. Conflict while another process calibrates.
        """
        await self._log.settle()
        return await self._calibrator.calibrate(
            judged,
            owner_id=owner_id,
            minimum=minimum,
            standard_errors=standard_errors,
            tune_text=tune_text,
            dry_run=dry_run,
        )

    async def calibrations(self, *, limit: int = 50) -> Sequence[Calibration]:
        """What was chosen and why, newest first."""
        return await self._calibrator.list(limit=check_limit(limit))

    async def undo_calibration(self) -> Calibration:
        """Put the settings back that were in force before the newest calibration that stands."""
        return await self._calibrator.undo()

    async def record_feedback(self, *, owner_id: str, search_id: uuid.UUID | str, grades: Mapping[Key, float]) -> int:
        """Grade hits of a logged search by chunk or by id at the origin, 0 for useless; a later grade replaces.

        SearchNotFound for another owner's search, or one that is not kept.
        """
        await self._log.settle()
        return await self._service.transaction(
            lambda session: FeedbackRepository(session).put(owner_id=owner_id, search_id=search_id, grades=grades)
        )

    async def feedback(
        self,
        *,
        owner_id: str,
        search_id: uuid.UUID | str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[Feedback]:
        """A page of an owner's grades, the newest first."""
        await self._log.settle()

        async def work(session: AsyncSession) -> Page[Feedback]:
            return await FeedbackRepository(session).list(
                owner_id=owner_id, search_id=search_id, limit=limit, cursor=cursor
            )

        return await self._service.transaction(work)

    async def searches(self, *, owner_id: str, limit: int = 50, cursor: str | None = None) -> Page[RecordedSearch]:
        """A page of an owner's logged searches, newest first, with their hits and grades."""
        await self._log.settle()

        async def work(session: AsyncSession) -> Page[RecordedSearch]:
            return await FeedbackRepository(session).searches(owner_id=owner_id, limit=limit, cursor=cursor)

        return await self._service.transaction(work)

    async def purge_search_log(self, *, older_than: dt.timedelta = dt.timedelta(0)) -> int:
        """Delete logged searches of this age, with their feedback; return how many."""
        if older_than < dt.timedelta(0):
            raise ValidationError("older_than", "it lies in the future")
        await self._log.settle()
        return await self._log.purge(older_than=min(older_than, dt.timedelta(days=36_500)))
