"""Telling W&B and MLflow how a run goes: a process for each, which may fail or hang without anybody waiting for it."""

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any

from structlog.typing import FilteringBoundLogger

from tunesmith.tuning.errors import brief
from tunesmith.tuning.messages import Claim, EventReport
from tunesmith.tuning.state import Outcome
from tunesmith.tuning.values.redact import scrub
from tunesmith.worker.run_directory import RunDirectory
from tunesmith.worker.trackers.tracked_run import TrackedRun, TrackerKind

Tell = Callable[[EventReport], None]
Environment = Mapping[str, str]

_PROGRAM = "tunesmith.worker.trackers.follow"
_NAMES: dict[TrackerKind, str] = {"wandb": "W&B", "mlflow": "MLflow"}
_SHARED = {
    "HOME", "LANG", "PATH", "TMPDIR", "TZ", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "PYTHONPATH",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY",
    "http_proxy", "https_proxy", "no_proxy",
}  # fmt: skip
# By tracker: what its process gets of the worker's environment beside that, keys among it.
_OWN: dict[TrackerKind, set[str]] = {
    "wandb": {"WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_DIR", "WANDB_ENTITY", "WANDB_MODE"},
    "mlflow": {
        "MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD",
        "MLFLOW_TRACKING_INSECURE_TLS", "MLFLOW_TRACKING_SERVER_CERT_PATH", "MLFLOW_ALLOW_FILE_STORE",
    },
}  # fmt: skip


@contextlib.contextmanager
def tracking(
    claim: Claim, run: RunDirectory, *, tell: Tell, log: FilteringBoundLogger, environment: Environment = os.environ
) -> Iterator["Tracking"]:
    """Follow the run for every tracker that this worker has. Neither the beginning nor the end waits for one."""
    found = Tracking(log=log, tell=tell)
    for missing in _missing(claim, environment):
        found.note(EventReport(level="warn", message=missing))
    for tracked in _wanted(claim, run, environment):
        found.start(tracked, _environment(tracked.kind, environment))
    try:
        yield found
    finally:
        found.end()


class Tracking:
    """The processes that follow one run."""

    def __init__(self, *, log: FilteringBoundLogger, tell: Tell) -> None:
        self._log = log
        self._tell = tell
        self._inputs: list[IO[str]] = []
        self._threads: list[threading.Thread] = []
        self.outcome: Outcome | None = None

    def start(self, tracked: TrackedRun, environment: Environment) -> None:
        """Begin to follow for one tracker."""
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", _PROGRAM],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=dict(environment),
                text=True,
                errors="replace",
                start_new_session=True,
            )
        except OSError as error:
            self._log.warning("tracker.not_started", tracker=tracked.kind, reason=str(error))
            return
        assert process.stdin is not None  # noqa: S101 - a pipe
        self._inputs.append(process.stdin)
        _write(process.stdin, tracked.model_dump_json() + "\n")
        secrets = tuple(value for name, value in environment.items() if name.endswith(("KEY", "TOKEN", "PASSWORD")))
        self._in_thread(lambda: self._listen(process, tracked.kind, secrets=secrets))

    def note(self, report: EventReport) -> None:
        """Tell the job's history, without waiting."""
        self._in_thread(lambda: self._say(report))

    def end(self) -> None:
        """Say how the job has ended. They end by themselves, each within a minute."""
        for words in self._inputs:
            _write(words, self.outcome.value if self.outcome else "interrupted")
            with contextlib.suppress(OSError):
                words.close()

    def wait(self, *, seconds: float) -> None:
        """Until everything is over; nobody in a job's way calls this."""
        for thread in self._threads:
            thread.join(timeout=seconds)

    def _in_thread(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, name="tracker", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _listen(self, process: "subprocess.Popen[str]", kind: TrackerKind, *, secrets: tuple[str, ...]) -> None:
        assert process.stdout is not None  # noqa: S101 - a pipe
        with process.stdout as answers:
            for line in answers:
                self._pass_on(kind, line, secrets=secrets)
        process.wait()
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)  # what its library has started
        if process.returncode:
            self._log.warning("tracker.ended", tracker=kind, exit_code=process.returncode)

    def _pass_on(self, kind: TrackerKind, line: str, *, secrets: tuple[str, ...]) -> None:
        try:
            report = _report(kind, line, secrets=secrets)
        except Exception as error:  # whatever it was: the process is followed to its end
            self._log.warning("tracker.not_understood", tracker=kind, error=brief(error))
        else:
            if report is not None:
                self._say(report)

    def _say(self, report: EventReport) -> None:
        try:
            self._tell(report)
        except Exception as error:  # the service is away, or the lease is lost: others notice that
            self._log.warning("tracker.not_told", reason=type(error).__name__)


def _wanted(claim: Claim, run: RunDirectory, environment: Environment) -> Iterator[TrackedRun]:
    plan = claim.plan
    config = {"model": claim.spec.model, "method": str(plan.method), "learning_rate": plan.learning_rate}
    config |= {"total_steps": plan.total_steps, "rows_per_step": plan.rows_per_step, "seed": claim.spec.seed}
    common: dict[str, Any] = {"metrics": str(run.metrics), "job_id": claim.job_id, "config": config}
    if _has(environment, "wandb"):
        asked = next((one.wandb for one in claim.spec.integrations), None)
        yield TrackedRun(
            kind="wandb",
            project=asked.project if asked else environment.get("WANDB_PROJECT") or "tunesmith",
            name=(asked.name if asked else None) or claim.job_id,
            entity=asked.entity if asked else None,
            tags=asked.tags if asked else (),
            **common,
        )
    if _has(environment, "mlflow"):
        project = environment.get("MLFLOW_EXPERIMENT_NAME") or "tunesmith"
        yield TrackedRun(kind="mlflow", project=project, name=claim.job_id, **common)


def _missing(claim: Claim, environment: Environment) -> Iterator[str]:
    """Why a tracker that was asked for, or set up, is told nothing."""
    if claim.spec.integrations and not _is_set_up(environment, "wandb"):
        yield "W&B is told nothing of this run: WANDB_API_KEY is not set where the worker runs."
    for kind, name in _NAMES.items():
        if _is_set_up(environment, kind) and importlib.util.find_spec(kind) is None:
            yield f"{name} is told nothing of this run: the package {kind} is not installed where the worker runs."


def _has(environment: Environment, kind: TrackerKind) -> bool:
    return _is_set_up(environment, kind) and importlib.util.find_spec(kind) is not None


def _is_set_up(environment: Environment, kind: TrackerKind) -> bool:
    if kind == "mlflow":
        return bool(environment.get("MLFLOW_TRACKING_URI"))
    return bool(environment.get("WANDB_API_KEY")) or environment.get("WANDB_MODE") == "offline"


def _environment(kind: TrackerKind, environment: Environment) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name in _SHARED | _OWN[kind]}


def _report(kind: TrackerKind, line: str, *, secrets: tuple[str, ...]) -> EventReport | None:
    try:
        said = json.loads(line)
        url, error = said.get("url"), said.get("error")
    except (ValueError, AttributeError):
        return None
    if error is not None:
        message = scrub(f"{_NAMES[kind]} is told no more of this run: {error}", secrets)
        return EventReport(level="warn", message=message, data={"tracker": kind})
    if not isinstance(url, str) or not url.startswith(("http://", "https://")):
        return None
    shown = scrub(url, secrets)[:500]
    return EventReport(message=f"{_NAMES[kind]} shows this run: {shown}", data={"tracker": kind, "url": shown})


def _write(words: IO[str], text: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # it has ended already
        words.write(text)
        words.flush()
