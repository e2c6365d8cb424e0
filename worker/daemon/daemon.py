"""The worker's main process: takes its folder, ends what an earlier start left, registers, serves wake-ups."""

import os
import platform
import signal
import threading
import time
import uuid
import warnings
from contextlib import suppress
from importlib.metadata import version
from typing import Any

import structlog
from celery import Celery, signals
from celery.exceptions import SecurityWarning

from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import TunesmithError
from tunesmith.tuning.hardware import HardwareProfile, MachineConstants
from tunesmith.tuning.messages import (
    RegisterWorker,
    WorkerHeartbeat,
    WorkerRegistered,
    wake_queue,
)
from tunesmith.worker.daemon.broker import BrokerThread
from tunesmith.worker.daemon.celery_app import create_app
from tunesmith.worker.daemon.machine_constants import measure_once
from tunesmith.worker.daemon.pool_calls import PoolCalls
from tunesmith.worker.daemon.wake_thread import WakeThread
from tunesmith.worker.daemon.worker_heartbeat import WorkerHeartbeatThread
from tunesmith.worker.machine.probe import probe
from tunesmith.worker.machine.slots import Slots, gpu_locks, hardware_of_slot, slots_of
from tunesmith.worker.sandbox.choice import best
from tunesmith.worker.settings import WorkerSettings
from tunesmith.worker.trainer_process.processes import end_leftovers
from tunesmith.worker.transport.control import HttpControlPlane
from tunesmith.worker.transport.model_cache import ModelCache
from tunesmith.worker.transport.retry import Patience, Unavailable
from tunesmith.worker.work_directory import WorkDirectory, WorkerSession

log = structlog.get_logger(__name__)

_FOREVER_SECONDS = 10 * 365 * 86400.0
_EXIT_CONSUMER_ENDED = 1
_LAST_SECONDS = 2.0  # of the grace: kept for the main process itself


class NoSandbox(TunesmithError):
    """Trainers cannot be sandboxed here, and the operator wants no worker without a sandbox."""

    code = ErrorCode.NO_SANDBOX


class WorkerDaemon:
    """One start of the worker on this machine."""

    def __init__(self, settings: WorkerSettings, *, name: str | None) -> None:
        self._settings = settings
        self._name = name or platform.node()
        self._work = WorkDirectory(settings.work_dir)
        self._incarnation = uuid.uuid4().hex
        self._control = HttpControlPlane(
            url=settings.url,
            worker_key=settings.worker_key.get_secret_value(),
            outage_patience_seconds=settings.outage_patience_seconds,
        )
        self._slots: Slots | None = None
        self._pool: PoolCalls | None = None
        self._constants: MachineConstants | None = None

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT; returns the exit code.

        Raises:
            WorkDirectoryInUse: another worker has the folder.
            NoSandbox: trainers cannot be sandboxed, and must be.
            TunesmithError: the service refuses this worker, for example because its key is wrong.
        """
        self._work.create()
        with self._work.lock():
            ended = end_leftovers(self._work.trainers, runs=self._work.runs)
            if ended:
                log.warning("worker.leftovers_ended", pids=ended)
            self._work.empty_homes()
            self._greet()
            self._look_at_the_sandbox()
            self._constants = self._measure_once()
            self._slots = slots_of(
                self._probe(), count=self._settings.slots, folder=self._work.slots, shared=gpu_locks(os.environ)
            )
            registered = self._register()
            self._start_session(registered)
            presence = self._start_presence(registered)
            self._drain_on_shutdown(presence)
            app = create_app(queue=wake_queue(registered.worker_class))
            self._listen(app, registered.worker_class)
            return self._serve(app)

    def _greet(self) -> None:
        """A wrong key or address shows here, before anything takes long."""
        answer = self._control.greet(Patience(seconds=_FOREVER_SECONDS, note=_note_waiting))
        if answer.version != version("tunesmith"):
            log.warning("worker.version_differs", worker=version("tunesmith"), service=answer.version)

    def _listen(self, app: Celery, worker_class: str) -> None:
        """Wake-ups come from the broker, and over HTTP while it is away or where there is none."""
        self._pool = pool = PoolCalls(app, worker_class=worker_class)
        redis_url, is_away = self._settings.redis_url, None
        if redis_url is None:
            log.info("worker.wake_ups", by="http", broker="none")
        else:
            queue = wake_queue(worker_class)
            broker = BrokerThread(
                redis_url.get_secret_value(), queue=queue, free_slots=self._free_slots, wake=pool.wake
            )
            broker.start()
            is_away = broker.is_away
        WakeThread(
            self._control, worker_class=worker_class, free_slots=self._free_slots, wake=pool.wake, wanted=is_away
        ).start()

    def _free_slots(self) -> int:
        """How many attempts could begin now; none once the worker is on its way out."""
        if self._slots is None or self._pool is None or self._work.drain_deadline() is not None:
            return 0
        return self._slots.count - max(self._slots.busy(), self._pool.under_way())

    def _look_at_the_sandbox(self) -> None:
        wanted = self._settings.sandbox
        if wanted == "off":
            log.warning("worker.trainers_not_sandboxed", because="TUNESMITH_SANDBOX is off")
            return
        found = best()
        if found.kind is not None:
            log.info("worker.trainers_sandboxed", kind=found.kind, filters_calls=found.filters_calls, **found.missed)
            return
        if wanted == "require":
            why = "; ".join(f"{kind}: {reason}" for kind, reason in found.missed.items())
            raise NoSandbox(
                f"Trainers cannot be sandboxed on this machine ({why}).",
                param="TUNESMITH_SANDBOX",
                hint="Allow user namespaces or Landlock (Linux 5.13) here, or set it to auto.",
            )
        log.warning("worker.trainers_not_sandboxed", **found.missed)

    def _measure_once(self) -> MachineConstants | None:
        """Before anything can claim the devices; a few seconds at the first start, nothing at later ones."""
        if not self._settings.measure_constants:
            return None
        return measure_once(self._work, self._slot_hardware())

    def _register(self) -> WorkerRegistered:
        request = RegisterWorker(
            worker_id=self._work.worker_id(),
            incarnation=self._incarnation,
            hostname=self._name,
            version=version("tunesmith"),
            hardware=self._slot_hardware(),
            slots=self._settings.slots,
        )
        return self._control.register(request, Patience(seconds=_FOREVER_SECONDS, note=_note_waiting))

    def _start_session(self, registered: WorkerRegistered) -> None:
        session = WorkerSession(
            worker_id=self._work.worker_id(),
            incarnation=self._incarnation,
            worker_class=registered.worker_class,
            name=self._name,
        )
        self._work.start_session(session)
        log.info("worker.registered", worker_id=session.worker_id, worker_class=session.worker_class)

    def _start_presence(self, registered: WorkerRegistered) -> WorkerHeartbeatThread:
        presence = WorkerHeartbeatThread(
            self._control,
            worker_id=self._work.worker_id(),
            interval_seconds=registered.heartbeat_interval_seconds,
            beat=self._beat,
            register=self._register,
            answered=self._work.alive.touch,
        )
        presence.start()
        return presence

    def _beat(self) -> WorkerHeartbeat:
        return WorkerHeartbeat(
            incarnation=self._incarnation,
            hardware=self._slot_hardware(),
            busy_slots=self._slots.busy() if self._slots else 0,
            draining=self._work.drain_deadline() is not None,
        )

    def _slot_hardware(self) -> HardwareProfile:
        """What one slot offers; slots are equal, so the first speaks for all."""
        slot = hardware_of_slot(self._probe(), index=0, count=self._settings.slots)
        kept = ModelCache(self._work.models).kept()
        return slot.model_copy(update={"constants": self._constants, "kept_models": kept})

    def _probe(self) -> HardwareProfile:
        return probe(disk=self._work.root, cpu_memory_gib=self._settings.cpu_memory_gib)

    def _drain_on_shutdown(self, presence: WorkerHeartbeatThread) -> None:
        """Celery stops taking messages and waits for its pool; the drain file tells the pool to come to an end."""

        def drain(**_: Any) -> None:
            self._work.start_draining(self._settings.grace_seconds - _LAST_SECONDS)
            presence.beat_now()
            threading.Thread(target=self._end_in_time, name="deadline", daemon=True).start()

        signals.worker_shutting_down.connect(drain, weak=False)

    def _end_in_time(self) -> None:
        """Within the grace this process is gone, whatever hangs: its pool dies with it, and trainers with the pool."""
        with suppress(Exception):  # whatever it was, the end comes
            if self._pool is not None:
                self._pool.wake()  # Celery looks for its end after a message, or every two seconds
        time.sleep(self._settings.grace_seconds)
        with suppress(Exception):  # for example because nobody reads the log any more
            log.warning("worker.grace_over")
        os.kill(os.getpid(), signal.SIGKILL)

    def _serve(self, app: Celery) -> int:
        """Returns 0 after a shutdown that was asked for, and another code when the consumer ended by itself."""
        # Celery fears pickled messages for a worker that is root; this one takes JSON and runs no code from a message.
        warnings.filterwarnings("ignore", category=SecurityWarning)
        worker = app.Worker(
            hostname=f"{self._name}@tunesmith",
            queues=[app.conf.task_default_queue],
            concurrency=self._settings.slots,
            pool="prefork",
            loglevel="WARNING",
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
            quiet=True,
        )
        worker.start()
        return _EXIT_CONSUMER_ENDED if worker.exitcode is None else int(worker.exitcode)


def _note_waiting(unavailable: Unavailable) -> None:
    log.warning("worker.waiting_for_service", reason=str(unavailable))
