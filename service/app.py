"""The API as an ASGI application."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI

from service import errors, health, migrate
from service.announcer import announcer_for
from service.artifacts.routes import router as artifacts
from service.attempts.routes import router as attempts
from service.blobs import BlobStore
from service.db import Database, create_engine
from service.edge import Edge
from service.files.routes import router as files
from service.jobs.routes import router as jobs
from service.metrics.routes import router as metrics
from service.models.routes import router as models
from service.monitoring.routes import router as monitoring
from service.plans.routes import router as plans
from service.reproductions.routes import router as reproductions
from service.settings import Settings
from service.workers.routes import router as workers


def create_app(settings: Settings) -> FastAPI:
    """Build the application; it connects when the first request needs it."""
    app = FastAPI(title="Tunesmith", version=version("tunesmith"), lifespan=_lifespan, redirect_slashes=False)
    app.state.settings = settings
    app.state.database = Database(
        create_engine(settings.database_url, pool_size=settings.pool_size, pool_wait_seconds=settings.pool_wait_seconds)
    )
    app.state.blobs = BlobStore.from_url(settings.store)
    app.state.announcer = announcer_for(settings.redis_url)
    app.state.schema_head = migrate.head()
    errors.install(app)
    routers = (
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
    await app.state.database.close()
