"""Sending what waits: a lane for each endpoint, so that one that hangs holds up nobody else."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime, timedelta

import structlog
from sqlalchemy.exc import SQLAlchemyError

from tunesmith.faults import Point, fault_point
from tunesmith.service.database.transactions import Clock, Database, now
from tunesmith.service.database.webhook_tables import WebhookDelivery, WebhookEndpoint
from tunesmith.service.webhooks import store
from tunesmith.service.webhooks.fan_out import fan_out
from tunesmith.service.webhooks.retries import GIVES_UP_AFTER, Retry
from tunesmith.service.webhooks.sending import Outcome, Sender
from tunesmith.tuning.values.json_objects import Json

log = structlog.get_logger(__name__)

_MOST_LANES = 64  # endpoints that one process sends to at a time
_MOST_IN_A_TURN = 50  # events to one endpoint before others have their turn
_LOGGED_TRIES = 20
_LEAST_LEASE = timedelta(seconds=60)
_GRACE_SECONDS = 2.0  # that a process which stops waits for answers
_GONE = 410


class Courier:
    """Of any number of processes one at a time sends to an endpoint. An event is sent until its endpoint has heard.

    One whose answer was lost is sent again, under the same id.
    """

    def __init__(
        self,
        database: Database,
        sender: Sender,
        *,
        every_seconds: float,
        clock: Clock = now,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._database = database
        self._sender = sender
        self._every_seconds = every_seconds
        self._clock = clock
        self._jitter = jitter
        self._lanes: set[asyncio.Task[int]] = set()

    async def run(self, stop: asyncio.Event) -> None:
        """Send until `stop` is set. What is under way then is sent again by whoever comes next."""
        while not stop.is_set():
            try:
                await self.open_lanes()
            except (SQLAlchemyError, OSError) as error:
                log.warning("webhooks.sweep_failed", error=type(error).__name__)
            except Exception:  # one odd row must not end the keeper, in whose process this runs
                log.exception("webhooks.sweep_failed")
            await _wait(stop, seconds=self._every_seconds)
        if self._lanes:
            await asyncio.wait(self._lanes, timeout=_GRACE_SECONDS)
        for lane in self._lanes:
            lane.cancel()

    async def sweep(self) -> int:
        """Pass on what has happened and send what is due, once; return how many were sent."""
        await self.open_lanes()
        return sum(await asyncio.gather(*self._lanes))

    async def open_lanes(self) -> None:
        """Begin to send to every endpoint that something is due for and that nobody sends to. Waits for no answer."""
        async with self._database.transaction() as session:
            await fan_out(session, clock=self._clock)
        async with self._database.transaction() as session:
            at = await self._clock(session)
            free = _MOST_LANES - len(self._lanes)
            endpoints = await store.take_lanes(session, at=at, until=at + self._lease, limit=free) if free else []
        for endpoint_id in endpoints:
            lane = asyncio.create_task(self._serve(endpoint_id))
            self._lanes.add(lane)
            lane.add_done_callback(self._lanes.discard)

    @property
    def _lease(self) -> timedelta:
        """Long enough for one answer and what must be written about it."""
        return max(_LEAST_LEASE, timedelta(seconds=3 * self._sender.timeout_seconds))

    async def _serve(self, endpoint_id: str) -> int:
        sent = 0
        try:
            while sent < _MOST_IN_A_TURN and (parcel := await self._next(endpoint_id)) is not None:
                delivery, endpoint, at = parcel
                outcome = await self._sender.send(
                    endpoint.url, delivery.event, secrets=_secrets(endpoint, at=at), at=at
                )
                fault_point(Point.AFTER_SENDING)
                await self._record(delivery.id, endpoint_id, outcome)
                sent += 1
                if not outcome.is_success:
                    break
            await self._release(endpoint_id)
        except (SQLAlchemyError, OSError) as error:
            log.warning("webhooks.lane_failed", endpoint_id=endpoint_id, error=type(error).__name__)
        except Exception:
            log.exception("webhooks.lane_failed", endpoint_id=endpoint_id)
        return sent

    async def _next(self, endpoint_id: str) -> tuple[WebhookDelivery, WebhookEndpoint, datetime] | None:
        async with self._database.transaction() as session:
            endpoint = await store.lock_endpoint(session, endpoint_id)
            if endpoint is None or endpoint.disabled_reason is not None:
                return None
            at = await self._clock(session)
            delivery = await store.next_due(session, endpoint_id, at=at)
            endpoint.busy_until = at + self._lease
            return None if delivery is None else (delivery, endpoint, at)

    async def _record(self, delivery_id: str, endpoint_id: str, outcome: Outcome) -> None:
        async with self._database.transaction() as session:
            endpoint = await store.lock_endpoint(session, endpoint_id)
            delivery = await store.lock_delivery(session, delivery_id)
            if endpoint is None or delivery is None:
                return  # deleted meanwhile
            note(delivery, endpoint, outcome, at=await self._clock(session), jitter=self._jitter())

    async def _release(self, endpoint_id: str) -> None:
        async with self._database.transaction() as session:
            endpoint = await store.lock_endpoint(session, endpoint_id)
            if endpoint is not None:
                endpoint.busy_until = await self._clock(session)


def note(
    delivery: WebhookDelivery, endpoint: WebhookEndpoint, outcome: Outcome, *, at: datetime, jitter: float
) -> None:
    """Write down a try, and decide what follows: another one, the end of this delivery, or of all to the endpoint."""
    delivery.tries += 1
    delivery.log = [*delivery.log, _entry(outcome, at=at)][-_LOGGED_TRIES:]
    if outcome.is_success:
        delivery.status = "delivered"
        endpoint.failing_since = None
        return
    retry = Retry.after(delivery.tries, jitter=jitter)
    endpoint.failing_since = endpoint.failing_since or at
    if outcome.status_code == _GONE or retry.pause is None:
        delivery.status = "failed"
    else:
        delivery.not_before = at + retry.pause
    if (reason := _reason_to_disable(endpoint.failing_since, outcome, at=at)) is not None:
        endpoint.disabled_reason = reason
        log.warning("webhooks.endpoint_disabled", endpoint_id=endpoint.id, project=endpoint.project, reason=reason)


def _reason_to_disable(failing_since: datetime, outcome: Outcome, *, at: datetime) -> str | None:
    if outcome.status_code == _GONE:
        return "It answered 410 Gone, which asks for no more events."
    if at - failing_since >= GIVES_UP_AFTER:
        return f"Every try since {failing_since:%Y-%m-%d %H:%M} UTC has failed. Last: {outcome.error}"
    return None


def _entry(outcome: Outcome, *, at: datetime) -> Json:
    return {"at": int(at.timestamp()), **asdict(outcome)}


def _secrets(endpoint: WebhookEndpoint, *, at: datetime) -> list[str]:
    previous, until = endpoint.previous_secret, endpoint.previous_secret_until
    is_valid = previous is not None and until is not None and until > at
    return [endpoint.secret, previous] if is_valid and previous is not None else [endpoint.secret]


async def _wait(stop: asyncio.Event, *, seconds: float) -> None:
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return
