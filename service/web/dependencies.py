"""What a route can ask for. All of it is asynchronous: FastAPI sends what is not to a thread, for every request."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.faults import Point, fault_point
from tunesmith.service.announcer import Announcer
from tunesmith.service.blobs.objects import BlobStore
from tunesmith.service.database.transactions import Database
from tunesmith.service.settings import Settings
from tunesmith.service.wakes.watcher import WakeWatcher


async def _database(request: Request) -> Database:
    return request.app.state.database  # type: ignore[no-any-return]


async def _blobs(request: Request) -> BlobStore:
    return request.app.state.blobs  # type: ignore[no-any-return]


async def _announcer(request: Request) -> Announcer:
    return request.app.state.announcer  # type: ignore[no-any-return]


async def _settings(request: Request) -> Settings:
    return request.app.state.settings  # type: ignore[no-any-return]


async def _wakes(request: Request) -> WakeWatcher:
    return request.app.state.wakes  # type: ignore[no-any-return]


DatabaseDep = Annotated[Database, Depends(_database)]
BlobsDep = Annotated[BlobStore, Depends(_blobs)]
AnnouncerDep = Annotated[Announcer, Depends(_announcer)]
SettingsDep = Annotated[Settings, Depends(_settings)]
WakesDep = Annotated[WakeWatcher, Depends(_wakes)]


async def _session(database: DatabaseDep) -> AsyncIterator[AsyncSession]:
    async with database.transaction() as session:
        yield session
        fault_point(Point.BEFORE_COMMIT)
    fault_point(Point.AFTER_COMMIT)


# Function scope: the commit happens before the response is sent, so that 200 means stored.
DbSession = Annotated[AsyncSession, Depends(_session, scope="function")]
