"""One pool process of the worker: takes a slot, claims a job for exactly that slot, and sees the attempt through."""

import signal
import subprocess
from contextlib import closing

import structlog

from tuning.errors import TunesmithError
from tuning.hardware import HardwareProfile
from tuning.messages import Claim, ClaimRequest
from worker.constants import stored_constants
from worker.control import ControlPlane, HttpControlPlane
from worker.probe import probe
from worker.retry import Unavailable
from worker.runner import Attempt, Surroundings
from worker.settings import WorkerSettings
from worker.slots import Slot, hardware_of_slot, slots_of
from worker.workdir import Session, WorkDirectory

log = structlog.get_logger(__name__)


class Station:
    """Everything that a pool process needs to run attempts."""

    def __init__(self, *, settings: WorkerSettings, control: ControlPlane) -> None:
        self._settings = settings
        self._control = control
        self._work = WorkDirectory(settings.work_dir)

    @classmethod
    def from_environment(cls) -> "Station":
        """As the worker's main process set it up."""
        _leave_sigterm_to_the_main_process()
        settings = WorkerSettings()
        control = HttpControlPlane(
            url=settings.url,
            worker_key=settings.worker_key.get_secret_value(),
            outage_patience_seconds=settings.outage_patience_seconds,
        )
        return cls(settings=settings, control=control)

    def close(self) -> None:
        """Close the connection to the service."""
        self._control.close()

    def run_next(self) -> bool:
        """Claim and run one attempt. False when no slot is free, nothing fits, or the worker is on its way out."""
        if self._work.drain_deadline() is not None:
            return False
        host = probe(disk=self._work.root, cpu_memory_gib=self._settings.cpu_memory_gib)
        slots = slots_of(host, count=self._settings.slots, folder=self._work.slots)
        slot = slots.acquire(wait_seconds=self._settings.slot_wait_seconds)
        if slot is None:
            log.warning("slot.none_free", slots=slots.count)
            return False
        try:
            return self._run_on(slot, self._hardware(host, slot, slots.count))
        finally:
            slot.release()

    def _hardware(self, host: HardwareProfile, slot: Slot, count: int) -> HardwareProfile:
        """What the slot offers; slots are equal, so the constants that the first was measured for hold for all."""
        first = hardware_of_slot(host, index=0, count=count)
        constants = stored_constants(self._work, first) if self._settings.measure_constants else None
        return hardware_of_slot(host, index=slot.index, count=count).model_copy(update={"constants": constants})

    def _run_on(self, slot: Slot, hardware: HardwareProfile) -> bool:
        claim = self._claim(self._work.session(), hardware)
        if claim is None:
            return False
        ids = {"job_id": claim.job_id, "attempt_id": claim.attempt_id, "epoch": claim.epoch}
        attempt_log = log.bind(**ids)
        attempt_log.info("attempt.claimed", slot=slot.index)
        surroundings = Surroundings(work=self._work, settings=self._settings, slot=slot, hardware=hardware)
        with closing(self._control.attempt(claim)) as control:
            attempt = Attempt(claim, control=control, surroundings=surroundings, log=attempt_log)
            try:
                attempt.run()
            except subprocess.TimeoutExpired:  # the kernel keeps a process: it keeps its lock, so the slot stays taken
                attempt_log.exception("slot.unhealthy", slot=slot.index)
                return False
        self._work.remove_old_runs(keep=self._settings.kept_runs)
        return True

    def _claim(self, session: Session, hardware: HardwareProfile) -> Claim | None:
        request = ClaimRequest(worker_id=session.worker_id, incarnation=session.incarnation, hardware=hardware)
        try:
            return self._control.claim(request)
        except (Unavailable, TunesmithError) as error:
            log.warning("claim.failed", reason=str(error))
            return None


def _leave_sigterm_to_the_main_process() -> None:
    """A service manager signals every process of a worker at once; this one must first bring its attempt to an end.

    A handler that does nothing, because an ignored signal would stay ignored in the trainer.
    """
    signal.signal(signal.SIGTERM, lambda *_: None)
