"""One pool process of the worker: takes a slot, claims a job for exactly that slot, and sees the attempt through."""

import os
import secrets
import signal
import subprocess
import uuid
from contextlib import closing
from pathlib import Path

import structlog

from tunesmith.faults import Point, fault_point
from tunesmith.tuning.errors import TunesmithError
from tunesmith.tuning.hardware import HardwareProfile
from tunesmith.tuning.messages import LEASE_PREFIX, Claim, ClaimRequest
from tunesmith.tuning.values.units import GIB
from tunesmith.worker.attempt.rehearsals import Rehearsals
from tunesmith.worker.attempt.runner import AttemptContext, AttemptRunner
from tunesmith.worker.daemon.machine_constants import stored_constants
from tunesmith.worker.machine.probe import probe
from tunesmith.worker.machine.slot_use import Serving, SlotUse, StillServing
from tunesmith.worker.machine.slots import Slot, gpu_locks, hardware_of_slot, slots_of
from tunesmith.worker.settings import WorkerSettings
from tunesmith.worker.trainer_process.launcher import trainer_environment
from tunesmith.worker.trainer_process.processes import bury_orphans, end_leftovers
from tunesmith.worker.trainer_process.warm import WarmTrainer
from tunesmith.worker.transport.control import ControlPlane, HttpControlPlane
from tunesmith.worker.transport.model_cache import ModelCache
from tunesmith.worker.transport.retry import Unavailable
from tunesmith.worker.work_directory import WorkDirectory, WorkerSession

log = structlog.get_logger(__name__)

WARM_FROM_BYTES = 8 * GIB  # of host memory for one slot: an idle warm process holds 0.3 GiB
_KILL_SECONDS = 5.0


class PoolWorker:
    """Everything that a pool process needs to run attempts, kept between them."""

    def __init__(self, *, settings: WorkerSettings, control: ControlPlane) -> None:
        self._settings = settings
        self._control = control
        self._work = WorkDirectory(settings.work_dir)
        self._models = ModelCache(self._work.models)
        self._rehearsals = Rehearsals()
        self._warm: WarmTrainer | None = None
        self._unanswered_claim: tuple[str, str] | None = None
        self._last_base: str | None = None

    @classmethod
    def from_environment(cls) -> "PoolWorker":
        """As the worker's main process set it up."""
        settings = WorkerSettings()
        control = HttpControlPlane(
            url=settings.url,
            worker_key=settings.worker_key.get_secret_value(),
            outage_patience_seconds=settings.outage_patience_seconds,
        )
        return cls(settings=settings, control=control)

    def warm_up(self) -> None:
        """Begin to import what trainers need, if this worker should; from then on there is a warm trainer for jobs."""
        self._warm = _warm_trainer(self._settings, self._probe())
        if self._warm is not None:
            self._warm.keep()

    def close(self) -> None:
        """Close the connection to the service and end the warm trainer."""
        self._control.close()
        if self._warm is not None:
            self._warm.close()

    def run_next(self) -> bool:
        """Claim and run one attempt. False when no slot is free, nothing fits, or the worker is on its way out."""
        if self._work.drain_deadline() is not None:
            return False
        host = self._probe()
        shared = gpu_locks(os.environ)
        slots = slots_of(host, count=self._settings.slots, folder=self._work.slots, shared=shared)
        slot = slots.acquire(wait_seconds=self._settings.slot_wait_seconds)
        if slot is None:
            log.warning("slot.none_free", slots=slots.count)
            return False
        try:
            use = slots.use(slot.index)
            return self._run_on(slot, use, use.at_rest(self._hardware(host, slot, slots.count)))
        finally:
            slot.release()

    def _probe(self) -> HardwareProfile:
        return probe(disk=self._work.root, cpu_memory_gib=self._settings.cpu_memory_gib)

    def _hardware(self, host: HardwareProfile, slot: Slot, count: int) -> HardwareProfile:
        """What the slot offers; slots are equal, so the constants that the first was measured for hold for all."""
        first = hardware_of_slot(host, index=0, count=count)
        constants = stored_constants(self._work, first) if self._settings.measure_constants else None
        offered = hardware_of_slot(host, index=slot.index, count=count)
        return offered.model_copy(update={"constants": constants, "kept_models": self._models.kept()})

    def _run_on(self, slot: Slot, use: SlotUse, hardware: HardwareProfile) -> bool:
        claim = self._claim(self._work.session(), hardware)
        if claim is None:
            return False
        ids = {"job_id": claim.job_id, "attempt_id": claim.attempt_id, "epoch": claim.epoch}
        attempt_log = log.bind(**ids)
        attempt_log.info("attempt.claimed", slot=slot.index)
        fault_point(Point.AFTER_CLAIM)
        try:
            slot.also_hold(use.take_to_train(_end_serving))
        except StillServing:  # the lease will run out, and the job go to another slot
            attempt_log.exception("slot.unhealthy", slot=slot.index)
            return False
        surroundings = AttemptContext(
            work=self._work,
            settings=self._settings,
            slot=slot,
            hardware=hardware,
            models=self._models,
            rehearsals=self._rehearsals,
            warm=self._warm,
        )
        with closing(self._control.attempt(claim)) as control:
            attempt = AttemptRunner(claim, control=control, surroundings=surroundings, log=attempt_log)
            try:
                attempt.run()
            except subprocess.TimeoutExpired:  # the kernel keeps a process: it keeps its lock, so the slot stays taken
                attempt_log.exception("slot.unhealthy", slot=slot.index)
                return False
        self._work.remove_old_runs(keep=self._settings.kept_runs)
        if self._warm is not None:
            bury_orphans(but={self._warm.pid})
            self._warm.keep()  # not while a job runs, whose processors the imports would take
        return True

    def _claim(self, session: WorkerSession, hardware: HardwareProfile) -> Claim | None:
        """Ask under a new id and token, or those of a claim that nobody answered: the service may have a job for it."""
        self._unanswered_claim = self._unanswered_claim or (
            uuid.uuid4().hex,
            LEASE_PREFIX + secrets.token_urlsafe(32),
        )
        claim_id, lease_token = self._unanswered_claim
        request = ClaimRequest(
            worker_id=session.worker_id,
            incarnation=session.incarnation,
            hardware=hardware,
            claim_id=claim_id,
            last_base=self._last_base,
            lease_token=lease_token,
        )
        try:
            claim = self._control.claim(request)
        except (Unavailable, TunesmithError) as error:
            log.warning("claim.failed", reason=str(error))
            return None
        self._unanswered_claim = None
        if claim is not None:
            self._last_base = claim.base_model.base_digest
        return claim


def leave_sigterm_to_the_main_process() -> None:
    """A service manager signals every process of a worker at once; this one must first bring its attempt to an end.

    A handler that does nothing, because an ignored signal would stay ignored in the trainer.
    """
    signal.signal(signal.SIGTERM, lambda *_: None)


def _end_serving(serving: Serving) -> None:
    """A gateway that does not leave: its engines end with it, and what they have started."""
    log.warning("serving.ended_by_force", pid=serving.pid)
    serving.kill()
    end_leftovers(Path(serving.mark), runs=Path(serving.mark), wait_seconds=_KILL_SECONDS)


def _warm_trainer(settings: WorkerSettings, host: HardwareProfile) -> WarmTrainer | None:
    """None where it is not wanted, or, unless it is asked for, where a slot has little memory."""
    slot = hardware_of_slot(host, index=0, count=settings.slots)
    wanted = settings.warm_trainer
    if wanted is None:
        wanted = slot.cpu.memory_total_bytes >= WARM_FROM_BYTES
        log.info("warm_trainer.decided", wanted=wanted, slot_memory_bytes=slot.cpu.memory_total_bytes)
    if not wanted:
        return None
    devices = tuple(gpu.uuid or str(gpu.index) for gpu in host.gpus)
    environment = trainer_environment(
        os.environ, run_dir=settings.work_dir, cores=max(1, slot.cpu.cores), devices=devices
    )
    return WarmTrainer(environment=environment)
