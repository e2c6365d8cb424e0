"""The API as an ASGI application."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI

from tunesmith.service.announcer import announcer_for
from tunesmith.service.artifacts.routes import router as artifacts
from tunesmith.service.attempts.routes import router as attempts
from tunesmith.service.blobs.objects import BlobStore
from tunesmith.service.database import migrate
from tunesmith.service.database.transactions import Database, create_engine
from tunesmith.service.files.routes import router as files
from tunesmith.service.jobs.event_stream import EventStreams
from tunesmith.service.jobs.line import Line
from tunesmith.service.jobs.routes import router as jobs
from tunesmith.service.jobs.watcher import JobWatcher
from tunesmith.service.keys.cache import KeyCache
from tunesmith.service.metrics.routes import router as metrics
from tunesmith.service.models.routes import router as models
from tunesmith.service.monitoring.routes import router as monitoring
from tunesmith.service.outbox.delivery import Deliveries
from tunesmith.service.plans.routes import router as plans
from tunesmith.service.reproductions.routes import router as reproductions
from tunesmith.service.settings import Settings
from tunesmith.service.web import errors, health, reference
from tunesmith.service.web.middleware import Edge
from tunesmith.service.web.openapi import DESCRIPTION, TAGS, DocumentedApi
from tunesmith.service.workers.routes import router as workers


def create_app(settings: Settings) -> FastAPI:
    """Build the application; it connects when the first request needs it."""
    app = DocumentedApi(
        title="Tunesmith",
        version=version("tunesmith"),
        description=DESCRIPTION,
        openapi_tags=TAGS,
        generate_unique_id_function=lambda route: route.name,
        docs_url=None,  # FastAPI's pages load scripts from elsewhere
        redoc_url=None,
        lifespan=_lifespan,
        redirect_slashes=False,
    )
    app.state.settings = settings
    database = app.state.database = Database(
        create_engine(settings.database_url, pool_size=settings.pool_size, pool_wait_seconds=settings.pool_wait_seconds)
    )
    app.state.keys = KeyCache(database)
    app.state.line = Line()
    app.state.watcher = JobWatcher(database, most_waiting=settings.most_waiting)
    app.state.event_streams = EventStreams(database, app.state.watcher)
    app.state.blobs = BlobStore.from_url(settings.store)
    app.state.announcer = announcer_for(settings.redis_url)
    app.state.deliveries = Deliveries(database, app.state.announcer)
    app.state.schema_head = migrate.head()
    errors.install(app)
    routers = (
        reference.router,
        health.router,
        monitoring,
        files,
        jobs,
        reproductions,
        plans,
        metrics,
        artifacts,
        models,
        workers,
        attempts,
    )
    for router in routers:
        app.include_router(router)
    app.add_middleware(Edge, max_body_bytes=settings.max_body_bytes, max_upload_bytes=settings.max_upload_bytes)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield
    app.state.watcher.close()
    await app.state.database.close()
