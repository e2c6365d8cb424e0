"""The API as an ASGI application."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from importlib.metadata import version

from fastapi import Depends, FastAPI

from tunesmith.service.access.audit_routes import router as audit
from tunesmith.service.access.key_routes import router as keys
from tunesmith.service.access.project_routes import router as projects
from tunesmith.service.aliases.follow import alias_watch
from tunesmith.service.aliases.routes import router as aliases
from tunesmith.service.announcer import announcer_for
from tunesmith.service.artifacts.routes import router as artifacts
from tunesmith.service.attempts.routes import router as attempts
from tunesmith.service.blobs.objects import BlobStore
from tunesmith.service.database import migrate
from tunesmith.service.database.transactions import Database, create_engine
from tunesmith.service.evaluations.follow import evaluation_watch
from tunesmith.service.evaluations.routes import router as evaluations
from tunesmith.service.files.routes import router as files
from tunesmith.service.inference.gateways import Gateways
from tunesmith.service.inference.routes import router as inference
from tunesmith.service.inference.usage import UsageCounter
from tunesmith.service.inference.worker_routes import router as inference_workers
from tunesmith.service.jobs.polling.answers import JobAnswers
from tunesmith.service.jobs.polling.event_stream import EventStreams
from tunesmith.service.jobs.polling.line import Line
from tunesmith.service.jobs.polling.watcher import JobWatcher
from tunesmith.service.jobs.queue_routes import router as queue
from tunesmith.service.jobs.routes import router as jobs
from tunesmith.service.jobs.submit_groups import SubmitGroups
from tunesmith.service.joining.client_routes import router as client
from tunesmith.service.joining.routes import internal_router as joining
from tunesmith.service.joining.routes import router as invitations
from tunesmith.service.keys.cache import KeyCache
from tunesmith.service.leases.beat import ApiBeat
from tunesmith.service.metrics.routes import router as metrics
from tunesmith.service.models.routes import router as models
from tunesmith.service.monitoring.routes import router as monitoring
from tunesmith.service.outbox.delivery import Deliveries
from tunesmith.service.permissions.routes import router as permissions
from tunesmith.service.plans.routes import router as plans
from tunesmith.service.reproductions.routes import router as reproductions
from tunesmith.service.routes import Routes
from tunesmith.service.schedules.follow import firing_watch
from tunesmith.service.schedules.reports.routes import router as schedule_reports
from tunesmith.service.schedules.routes import router as schedules
from tunesmith.service.settings import Settings
from tunesmith.service.uploads.routes import router as uploads
from tunesmith.service.wakes.watcher import WakeWatcher
from tunesmith.service.web import errors, health
from tunesmith.service.web.middleware import Edge
from tunesmith.service.web.openapi import DESCRIPTION, TAGS, DocumentedApi
from tunesmith.service.web.pages import front, reference
from tunesmith.service.web.query_keys import known_query_keys
from tunesmith.service.webhooks.routes import router as webhooks
from tunesmith.service.webhooks.sending import Sender
from tunesmith.service.workers.routes import internal_router as worker_heartbeats
from tunesmith.service.workers.routes import router as workers

_LAST_BEAT_SECONDS = 2.0  # that a shutdown waits for one that is under way


_JOBS = (jobs, queue, reproductions, evaluations, schedules, schedule_reports, plans, metrics, artifacts)
_ACCESS = (client, invitations, workers, keys, projects, permissions, audit, webhooks)
_PUBLIC = (front.router, reference.router, monitoring, files, uploads, *_JOBS, models, aliases, inference, *_ACCESS)
_FOR_WORKERS = (joining, worker_heartbeats, attempts, inference_workers)
_ROUTERS = {Routes.ALL: _PUBLIC + _FOR_WORKERS, Routes.PUBLIC: _PUBLIC, Routes.WORKERS: _FOR_WORKERS}


def create_app(settings: Settings, *, routes: Routes = Routes.ALL) -> FastAPI:
    """Build the application; it connects when the first request needs it."""
    app = DocumentedApi(
        title="Tunesmith",
        version=version("tunesmith"),
        description=DESCRIPTION,
        openapi_tags=TAGS,
        generate_unique_id_function=lambda route: route.name,
        openapi_url=None,  # `service.web.pages.reference` has a route that makes the document in a thread
        docs_url=None,  # FastAPI's pages load scripts from elsewhere
        redoc_url=None,
        lifespan=_lifespan,
        redirect_slashes=False,
    )
    app.state.settings = settings
    app.state.routes = routes
    database = app.state.database = Database(
        create_engine(
            settings.database_url,
            pool_size=settings.pool_size,
            pool_wait_seconds=settings.pool_wait_seconds,
            statement_seconds=settings.statement_seconds,
        )
    )
    app.state.keys = KeyCache(database)
    app.state.line = Line(lambda: app.state.settings)
    app.state.submit_groups = SubmitGroups(database)
    app.state.job_answers = JobAnswers()
    app.state.watcher = JobWatcher(database, most_waiting=settings.most_waiting)
    app.state.firing_watch = firing_watch(database, app.state.watcher)
    app.state.evaluation_watch = evaluation_watch(database, app.state.watcher)
    app.state.alias_watch = alias_watch(database, app.state.watcher)
    app.state.wakes = WakeWatcher(database)
    app.state.event_streams = EventStreams(database, app.state.watcher)
    app.state.blobs = BlobStore.from_url(settings.store, signed_downloads=settings.signed_downloads)
    app.state.announcer = announcer_for(settings.redis_url)
    app.state.deliveries = Deliveries(database, app.state.announcer)
    app.state.webhook_sender = Sender.of(settings)
    app.state.gateways = Gateways(silence_seconds=settings.inference_silence_seconds)
    app.state.usage = UsageCounter(database)
    app.state.schema_head = migrate.head()
    app.state.last_look = health.LastLook()
    errors.install(app)
    app.include_router(health.router)
    for router in _ROUTERS[routes]:
        app.include_router(router, dependencies=[Depends(known_query_keys)])
    app.add_middleware(Edge, settings=settings)
    return app


def let_go(app: FastAPI) -> None:
    """End every request that only waits: the process is going."""
    app.state.watcher.close()
    app.state.wakes.close()


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    settings: Settings = app.state.settings
    beat = ApiBeat(app.state.database, every_seconds=settings.beat_seconds, lease_seconds=settings.lease_seconds)
    # Leases are renewed where workers are answered, so no other process can say that one could have been.
    async with _beating(beat) if app.state.routes is not Routes.PUBLIC else nullcontext():
        yield
    let_go(app)
    await app.state.gateways.close()
    await app.state.usage.flush()
    await app.state.database.close()


@asynccontextmanager
async def _beating(beat: ApiBeat) -> AsyncIterator[None]:
    """Beat for as long as the context lasts."""
    stop = asyncio.Event()
    task = asyncio.create_task(beat.run(stop))
    yield
    stop.set()
    await asyncio.wait((task,), timeout=_LAST_BEAT_SECONDS)
    task.cancel()
