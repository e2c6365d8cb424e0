"""`/v1/schedule_reports`: what the last due times cost."""

from typing import Annotated

from fastapi import APIRouter, Query

from tunesmith.service.schedules.reports import store
from tunesmith.service.schedules.reports.report import reports_of
from tunesmith.service.web.auth import MemberKey
from tunesmith.service.web.dependencies import DbSession
from tunesmith.service.web.parameters import AT_MOST
from tunesmith.tuning.api.nightly.reports import ScheduleReportList

router = APIRouter(prefix="/v1/schedule_reports", tags=["schedules"])


@router.get("")
async def list_schedule_reports(
    caller: MemberKey, session: DbSession, limit: Annotated[int, Query(ge=1, le=100, description=AT_MOST)] = 7
) -> ScheduleReportList:
    """The project's newest due times: what became of their firings, and where the time of their jobs went."""
    rows = await store.find_attempts(session, project=caller.project, due_times=limit)
    return ScheduleReportList(data=reports_of(rows))
