"""The story of one attempt: prepare, launch, follow, hand over, finish. Reads from top to bottom.

Whatever happens ends in one of three ways: a finish report, silence because another attempt owns the job, or silence
because the worker's time is over, which the service turns into a requeue.
"""

import errno
import os
import time
from dataclasses import dataclass

from structlog.typing import FilteringBoundLogger

from tunesmith.faults import Point, fault_point
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import Category, Failure, JobFailure, LeaseLost, TunesmithError
from tunesmith.tuning.hardware import HardwareProfile
from tunesmith.tuning.hardware_facts.devices import devices_of
from tunesmith.tuning.messages import Claim, EventReport, FinishReport, PhaseReport
from tunesmith.tuning.plan import Plan
from tunesmith.tuning.state import Outcome, Phase
from tunesmith.tuning.values.json_objects import Json, present
from tunesmith.tuning.values.redact import scrub_all
from tunesmith.worker.attempt.checkpoints import CheckpointUploader
from tunesmith.worker.attempt.disk.probe import UNUSABLE, disk_error
from tunesmith.worker.attempt.disk.room import moved_bytes
from tunesmith.worker.attempt.disk.use import DiskWatch, disk_limits
from tunesmith.worker.attempt.exit_classifier import TrainerExit, classify_exit, disk_full, disk_unusable
from tunesmith.worker.attempt.follower import Follower
from tunesmith.worker.attempt.lease_heartbeat import Heartbeat
from tunesmith.worker.attempt.preparation import PreparedRun, prepare, prepare_longer
from tunesmith.worker.attempt.progress import Progress
from tunesmith.worker.attempt.rehearsals import Rehearsals
from tunesmith.worker.attempt.stall import StallWatch, silence_limits
from tunesmith.worker.attempt.startup import startup_seconds
from tunesmith.worker.attempt.stop_requests import OUTCOMES, AttemptStopped, OutOfTime, StopRequest, StopRequests
from tunesmith.worker.attempt.token_cache import TokenStore
from tunesmith.worker.attempt.uploads import upload_curves, upload_log, upload_output
from tunesmith.worker.machine.cgroup import out_of_memory_kills
from tunesmith.worker.machine.slots import Slot
from tunesmith.worker.run_directory import NotPlain, RunDirectory, TrainResult
from tunesmith.worker.sandbox.choice import best
from tunesmith.worker.sandbox.definition import Sandbox
from tunesmith.worker.settings import WorkerSettings
from tunesmith.worker.trackers.tracking import tracking
from tunesmith.worker.trainer_process.launcher import POLL_SECONDS, Trainer, launch
from tunesmith.worker.trainer_process.log_file import log_tail
from tunesmith.worker.trainer_process.view import sandbox_of
from tunesmith.worker.trainer_process.warm import WarmTrainer
from tunesmith.worker.transport.control import AttemptControl
from tunesmith.worker.transport.model_cache import ModelCache
from tunesmith.worker.transport.retry import Unavailable
from tunesmith.worker.work_directory import WorkDirectory

_TRAINER_SHARE_OF_GRACE = 0.5  # of a drain: the other half belongs to the upload of the last checkpoint
_TERMINATE_SECONDS = 5.0


@dataclass(frozen=True)
class AttemptContext:
    """What an attempt is given by the worker that runs it."""

    work: WorkDirectory
    settings: WorkerSettings
    slot: Slot
    hardware: HardwareProfile  # of the slot, now
    models: ModelCache
    rehearsals: Rehearsals
    warm: WarmTrainer | None = None

    def devices(self, plan: Plan) -> tuple[str, ...]:
        """The GPUs that the plan is for, as CUDA names them."""
        return tuple(gpu.uuid or str(gpu.index) for gpu in devices_of(plan, self.hardware))

    def sandbox(self, prepared: PreparedRun, *, project: str) -> Sandbox | None:
        """Around the trainer of a run; None where the operator wants none, or this machine allows none."""
        kind = None if self.settings.sandbox == "off" else best().kind
        if kind is None:
            return None
        home = self.work.home(project)
        return sandbox_of(prepared.run, prepared.request, kind=kind, home=home, work=self.work.root)

    @property
    def tokens(self) -> TokenStore:
        """Tokenised rows of earlier runs."""
        return TokenStore(self.work.tokens, limit_bytes=self.settings.token_cache_bytes)

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must never leave this host in a text."""
        found = (self.settings.worker_key, self.settings.redis_url)
        return tuple(secret.get_secret_value() for secret in found if secret is not None)


@dataclass(frozen=True)
class _Seen:
    """Of a trainer before its end: what it was told, and why the worker stopped it otherwise."""

    told: StopRequest | None = None
    stalled_seconds: float | None = None  # for how long it had shown nothing, if that was too long
    overfull: Failure | None = None


class AttemptRunner:
    """One attempt of a job, from its claim to its last word."""

    def __init__(
        self, claim: Claim, *, control: AttemptControl, surroundings: AttemptContext, log: FilteringBoundLogger
    ) -> None:
        self._claim = claim
        self._control = control
        self._around = surroundings
        self._log = log
        self._directives = StopRequests(drain_deadline=surroundings.work.drain_deadline)
        self._progress = Progress(total_steps=claim.plan.total_steps)
        self._handing_over = control.patiently(self._directives.check_while_handing_over)
        self._run: RunDirectory | None = None
        self._began_at = time.time()

    def run(self) -> Outcome | None:
        """Work until the attempt has an outcome and the service knows it; None when it must stay silent."""
        heartbeat = Heartbeat(
            self._control,
            progress=self._progress,
            directives=self._directives,
            interval_seconds=self._claim.heartbeat_interval_seconds,
            log=self._log,
        )
        heartbeat.start()
        try:
            return self._finish(self._work())
        except LeaseLost:
            self._log.warning("attempt.lease_lost")
        except (OutOfTime, Unavailable, TunesmithError) as reason:
            self._log.warning("attempt.left_to_its_lease", reason=str(reason) or type(reason).__name__)
        finally:
            heartbeat.stop()
        return None

    def _work(self) -> FinishReport:
        """Turn every way an attempt can go into a report, except a lost lease and the end of the grace."""
        ids = {"job_id": self._claim.job_id, "attempt_id": self._claim.attempt_id}
        try:
            with self._around.work.at_work(**ids):
                return self._train(self._prepare())
        except AttemptStopped as halted:
            return FinishReport(outcome=OUTCOMES[halted.directive])
        except JobFailure as error:
            return FinishReport(outcome=Outcome.FAILED, failure=error.failure)
        except (LeaseLost, OutOfTime, Unavailable):
            raise
        except OSError as error:
            return FinishReport(outcome=Outcome.FAILED, failure=self._failure_of(error))
        except Exception as error:
            self._log.exception("attempt.broken")
            return FinishReport(outcome=Outcome.FAILED, failure=_internal(error))

    def _prepare(self) -> PreparedRun:
        self._progress.reached(Phase.PREPARING)
        prepared = prepare(
            self._claim,
            hardware=self._around.hardware,
            work=self._around.work,
            tokens=self._around.tokens,
            cache=self._around.models,
            rehearsals=self._around.rehearsals,
            control=self._control.patiently(self._directives.check_before_training),
            log=self._log,
        )
        self._run = prepared.run
        return prepared

    def _train(self, prepared: PreparedRun) -> FinishReport:
        """Run the trainer to its end, once more from the start when the plan no longer suits the checkpoint."""
        run = prepared.run
        follower = Follower(
            run,
            self._control,
            progress=self._progress,
            directives=self._directives,
            log=self._log,
            secrets=self._around.secrets,
        )
        uploader = CheckpointUploader(
            run.checkpoints,
            self._control,
            directives=self._directives,
            log=self._log,
            recorded=lambda: follower.recorded_step,
        )
        with tracking(self._claim, run, tell=self._handing_over.event, log=self._log) as trackers:
            follower.start()
            uploader.start()
            try:
                ending = self._train_to_end(prepared)
            finally:
                follower.stop()
                uploader.stop()
            self._directives.check_while_handing_over()
            report = self._hand_over(run, ending, follower=follower, uploader=uploader)
            trackers.outcome = report.outcome
        return report

    def _train_to_end(self, prepared: PreparedRun) -> TrainerExit:
        ending = self._train_once(prepared)
        if _failed_with(ending, ErrorCode.ROWS_LONGER_THAN_PLANNED):
            prepared = self._with_longer_rows(prepared)
            ending = self._train_once(prepared)
        if _wants_fresh_start(ending, prepared):
            ending = self._train_once(self._without_checkpoint(prepared))
        return ending

    def _train_once(self, prepared: PreparedRun) -> TrainerExit:
        kills_before = out_of_memory_kills()
        trainer = launch(
            prepared.run,
            prepared.request.plan,
            slot=self._around.slot,
            cores=self._around.hardware.cpu.cores,
            devices=self._around.devices(prepared.request.plan),
            records=self._around.work.trainers,
            log_cap_bytes=self._around.settings.log_cap_bytes,
            sandbox=self._around.sandbox(prepared, project=self._claim.project),
            warm=self._around.warm,
            hurry=lambda: self._directives.current() is not None,
        )
        self._log.info("trainer.started", pid=trainer.process.pid, start=trainer.start)
        try:
            fault_point(Point.AFTER_SPAWN)
            seen = self._watch(trainer, self._stall_watch(prepared), self._disk_watch(prepared))
        finally:
            exit_code = trainer.end()
        self._keep_tokens(prepared.run)
        self._log.info("trainer.exited", exit_code=exit_code, told=seen.told.value if seen.told else None)
        result = _read_result(prepared.run)
        return TrainerExit(
            exit_code=exit_code,
            result=result,
            disk_error=disk_error(prepared.run.root) if result is None else None,
            log_tail=log_tail(prepared.run.log, secrets=self._around.secrets),
            told=seen.told,
            stalled_seconds=seen.stalled_seconds,
            overfull=seen.overfull,
            out_of_memory_kills=out_of_memory_kills() - kills_before,
        )

    def _keep_tokens(self, run: RunDirectory) -> None:
        try:
            self._around.tokens.adopt(run.tokens, project=self._claim.project)
        except OSError:  # the next run tokenises again
            self._log.warning("tokens.not_kept", exc_info=True)

    def _stall_watch(self, prepared: PreparedRun) -> StallWatch:
        request = prepared.request
        at_least_seconds = self._around.settings.stall_seconds
        moved = moved_bytes(self._claim)
        limits = silence_limits(request.plan, request.dataset, moved_bytes=moved, at_least_seconds=at_least_seconds)
        return StallWatch(prepared.run, limits)

    def _disk_watch(self, prepared: PreparedRun) -> DiskWatch:
        limits = disk_limits(self._claim, times_planned=self._around.settings.disk_times_planned)
        return DiskWatch(prepared.run.root, limits, home=self._around.work.home(self._claim.project))

    def _watch(self, trainer: Trainer, stall: StallWatch, disk: DiskWatch) -> _Seen:
        """Wait for the trainer's end; stop it when told to, when it hangs, or when it fills the disk."""
        while trainer.exit_code is None:
            directive = self._directives.current()
            if directive is not None:
                self._stop(trainer, directive)
                return _Seen(told=directive)
            stalled = stall.stalled_seconds()
            if stalled is not None:
                self._stop_stalled(trainer, stalled)
                return _Seen(told=self._directives.current(), stalled_seconds=stalled)
            overfull = disk.overfull(trainer.process.pid)
            if overfull is not None:
                self._log.warning("trainer.overfull", reason=overfull.message)
                trainer.end()  # at once: whatever it is given time for, it would write
                return _Seen(told=self._directives.current(), overfull=overfull)
            time.sleep(POLL_SECONDS)
        return _Seen()

    def _stop_stalled(self, trainer: Trainer, seconds: float) -> None:
        """Down the ladder: one that is only slow may still save a checkpoint."""
        self._log.warning("trainer.stalled", seconds=round(seconds, 1))
        grace = self._around.settings.cancel_grace_seconds
        trainer.stop(
            grace_seconds=grace,
            terminate_seconds=min(_TERMINATE_SECONDS, grace),
            check=lambda: self._directives.current() is not None,
        )

    def _stop(self, trainer: Trainer, directive: StopRequest) -> None:
        """A cancelled run need not save anything; a paused or drained one gets the time for a checkpoint."""
        self._log.info("trainer.stopping", because=directive.value)
        if directive is StopRequest.LEASE_LOST:
            return
        grace = self._around.settings.grace_seconds * _TRAINER_SHARE_OF_GRACE
        if directive is StopRequest.CANCEL:
            grace = self._around.settings.cancel_grace_seconds / 2
        more_urgent = (
            {StopRequest.LEASE_LOST}
            if directive is StopRequest.CANCEL
            else {StopRequest.LEASE_LOST, StopRequest.CANCEL}
        )
        trainer.stop(
            grace_seconds=grace,
            terminate_seconds=min(_TERMINATE_SECONDS, grace),
            check=lambda: self._directives.current() in more_urgent,
        )

    def _hand_over(
        self, run: RunDirectory, ending: TrainerExit, *, follower: Follower, uploader: CheckpointUploader
    ) -> FinishReport:
        """Ship what is left, then the checkpoint a later attempt starts from or the result, then the log."""
        outcome, failure = classify_exit(ending)
        follower.flush(self._handing_over)
        if outcome is Outcome.SUCCEEDED and ending.result is not None:
            self._progress.reached(Phase.UPLOADING)
            self._handing_over.phase(PhaseReport(phase=Phase.UPLOADING))
            upload_output(run, ending.result, self._handing_over)
            self._around.rehearsals.remember(run.request(), ending.result, run.read_canary())
        elif outcome is not Outcome.CANCELLED:
            uploader.flush(self._handing_over)
            if ending.result is not None and ending.result.output_kind is not None:  # only what came after it failed
                upload_output(run, ending.result, self._handing_over)
        upload_log(run, self._handing_over, secrets=self._around.secrets, cap_bytes=self._around.settings.log_cap_bytes)
        if reason := upload_curves(run, self._handing_over):
            self._log.warning("curves.not_written", reason=reason)
        started = startup_seconds(run.timeline, since=self._began_at)
        return _report(outcome, failure, ending.result, present(startup_seconds=started))

    def _with_longer_rows(self, prepared: PreparedRun) -> PreparedRun:
        return prepare_longer(
            prepared,
            claim=self._claim,
            hardware=self._around.hardware,
            rehearsals=self._around.rehearsals,
            control=self._control.patiently(self._directives.check_before_training),
        )

    def _without_checkpoint(self, prepared: PreparedRun) -> PreparedRun:
        message = "The checkpoint was made under another plan; training starts afresh."
        self._handing_over.event(EventReport(level="warn", message=message))
        request = prepared.request.model_copy(update={"resume_from": None})
        prepared.run.result.unlink(missing_ok=True)
        prepared.run.create(request)
        return PreparedRun(run=prepared.run, request=request)

    def _finish(self, report: FinishReport) -> Outcome:
        if report.failure is not None:
            failure = scrub_all(report.failure.model_dump(mode="json"), self._around.secrets)
            report = report.model_copy(update={"failure": Failure.model_validate(failure)})
        self._handing_over.finish(report)
        self._log.info("attempt.finished", outcome=report.outcome.value, code=report.failure and report.failure.code)
        return report.outcome

    def _failure_of(self, error: OSError) -> Failure:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return disk_full("The disk of the worker is full.")
        if error.errno in UNUSABLE:
            return disk_unusable(os.strerror(error.errno))
        self._log.exception("attempt.broken")
        return _internal(error)


def _report(outcome: Outcome, failure: Failure | None, result: TrainResult | None, more: Json) -> FinishReport:
    if result is None:
        return FinishReport(outcome=outcome, failure=failure)
    facts = result.model_dump(mode="json", exclude={"failure"}, exclude_none=True) | more
    return FinishReport(outcome=outcome, failure=failure, trained_tokens=result.trained_tokens, result=facts)


def _wants_fresh_start(ending: TrainerExit, prepared: PreparedRun) -> bool:
    return _failed_with(ending, ErrorCode.CHECKPOINT_OF_ANOTHER_PLAN) and prepared.request.resume_from is not None


def _failed_with(ending: TrainerExit, code: ErrorCode) -> bool:
    failure = ending.result.failure if ending.result else None
    return failure is not None and failure.code == code


def _read_result(run: RunDirectory) -> TrainResult | None:
    """A result that cannot be read is no result: the trainer was not the one who wrote it."""
    try:
        return run.read_result()
    except (NotPlain, ValueError):
        return None


def _internal(error: Exception) -> Failure:
    return Failure(
        code=ErrorCode.WORKER_ERROR,
        message=f"The worker met an error of its own ({type(error).__name__}).",
        category=Category.INTERNAL,
        retryable=True,
        hint="The worker's log has the details.",
    )
