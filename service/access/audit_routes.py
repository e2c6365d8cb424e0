"""`/v1/audit`: who did what when."""

from typing import Annotated

from fastapi import APIRouter, Query

from tunesmith.service.audit import store
from tunesmith.service.database.access_tables import AuditEntry
from tunesmith.service.web.auth import AdminKey
from tunesmith.service.web.dependencies import DbSession
from tunesmith.service.web.parameters import AT_MOST, After
from tunesmith.tuning.api.access.audit import AuditObject, AuditPage
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import InvalidRequest

router = APIRouter(prefix="/v1/audit", tags=["keys and projects"])

_PREFIX = "audit-"


@router.get("")
async def list_audit_entries(
    _caller: AdminKey,
    session: DbSession,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=1000, description=AT_MOST)] = 100,
) -> AuditPage:
    """What was done to keys, projects, workers and models, newest first. Admins only."""
    before = None if after is None else _number(after)
    rows = await store.page(session, before=before, limit=limit + 1)
    return AuditPage.of([_audit_object(row) for row in rows], limit=limit)


def _number(entry_id: str) -> int:
    number = entry_id.removeprefix(_PREFIX)
    if not (entry_id.startswith(_PREFIX) and number.isascii() and number.isdigit() and len(number) < 19):
        message = f"after names no entry: {entry_id!r:.60}."
        raise InvalidRequest(message, code=ErrorCode.INVALID_VALUE, param="after", hint="Give an id of the list.")
    return int(number)


def _audit_object(row: AuditEntry) -> AuditObject:
    return AuditObject(
        id=f"{_PREFIX}{row.id}",
        at=int(row.at.timestamp()),
        actor=row.actor,
        key_id=row.key_id,
        action=row.action,
        subject=row.subject,
        details=row.details,
    )
