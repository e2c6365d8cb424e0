"""The run directory: the whole interface between the worker and the trainer, in plain files.

    plan.json        TrainRequest: written by the worker, read once by the trainer
    metrics.jsonl    one object with the names of `tuning.metrics` per line, appended by the trainer, whole lines only
    events.jsonl     one {"level", "message", "data"} object per line: what a person should know, sample answers too
    phase            the trainer's current phase, replaced atomically
    timeline.jsonl   one {"reached", "time"} object for each moment of the trainer's way: where a job's time goes
    canary.json      CanaryReport: what one real micro-step measured before training, beside its prediction; absent
                     where an earlier run's word is enough
    checkpoints/     step-00000120/ with files and manifest.json; a folder without a manifest is not a checkpoint
    output/          the result: adapter/ or model/, tokenizer, card; of an evaluation rows.jsonl
    log.txt          stdout and stderr of the trainer's process tree
    result.json      TrainResult, written last and atomically: its presence means the trainer finished its work
    tokens/          tokenised rows that the run has made, and marks of those that it has used, for the worker to keep
    ranks/           of several processes, the Failure of each that failed; the launcher makes one result of them
    stop             created by the worker: checkpoint at the next step and exit with EXIT_STOPPED

A trainer can be run by hand: `python -m tunesmith.worker.train RUN_DIR`.
"""

import contextlib
import errno
import json
import os
import socket
import stat
from pathlib import Path
from typing import Any

from tunesmith.tuning.codes import ArtifactKind
from tunesmith.tuning.errors import Failure
from tunesmith.tuning.hardware import MachineConstants
from tunesmith.tuning.job import DatasetFacts, JobSpec
from tunesmith.tuning.messages import CanaryReport
from tunesmith.tuning.models.shape import ModelShape
from tunesmith.tuning.plan import Plan
from tunesmith.tuning.planner.rehearsal import Rehearsal
from tunesmith.tuning.values.base import Value
from tunesmith.worker.hashes import Seal
from tunesmith.worker.manifests import MANIFEST

EXIT_STOPPED = 75  # EX_TEMPFAIL: stopped on request, the last checkpoint is complete
EXIT_FAILED = 1  # result.json holds the Failure
_MOST_BYTES = 64 * 1024**2  # of what a trainer says in one file: a dataset has a number for each of its rows
TOKENS_SUFFIX, USED_SUFFIX = ".safetensors", ".used"  # of files in tokens/: an entry, and the mark of one in the cache


class OtherModel(Value):
    """Whom an evaluation compares a model with. Paths are absolute."""

    model_dir: str
    adapter_dir: str | None = None  # an adapter of `model_dir`, or a full checkpoint's weights for it
    measured_shape: ModelShape | None = None


class TrainRequest(Value):
    """Everything the trainer is told. All paths are absolute and lie on this host."""

    job_id: str
    attempt_id: str
    spec: JobSpec
    plan: Plan
    dataset: DatasetFacts
    model_dir: str
    adapter_dir: str | None = None  # continue from this adapter of `model_dir`; what an evaluation puts on it
    base_name: str = "/path/to/the/base"  # what a result calls `model_dir`: a hub id, or where a folder's path belongs
    base_revision: str | None = None  # the commit of the hub's repository
    against: OtherModel | None = None  # of an evaluation
    training_file: str
    validation_file: str | None = None
    # Of the training file: they are validation rows, and never trained on; an evaluation with any reads these alone.
    held_out_lines: tuple[int, ...] = ()
    resume_from: str | None = None  # a checkpoint folder that has been verified
    measured_shape: ModelShape | None = None  # of a family whose config.json alone does not tell
    token_cache: str | None = None  # tokenised rows of other runs, to be read and never written
    cut_long_rows: bool = True  # else the trainer ends with ROWS_LONGER_THAN_PLANNED, so that the plan can be made anew
    lifeline_fd: int | None = None  # read end of a pipe whose other end only the worker holds; EOF means: die
    seals: dict[str, Seal] = {}  # of input files that the worker has verified, by path
    rehearsal: Rehearsal | None = None  # what an equal run on this worker showed, so that this one may go without
    constants: MachineConstants | None = None  # what this worker has measured of itself


class TrainResult(Value):
    """What the trainer says at its end. With a `failure` the output is complete only where `output_kind` is set too."""

    failure: Failure | None = None
    output_kind: ArtifactKind | None = None
    steps: int = 0
    trained_tokens: int = 0
    supervised_tokens: int = 0
    first_valid_loss: float | None = None
    final_valid_loss: float | None = None
    final_train_loss: float | None = None
    tokens_per_second: float | None = None
    peak_memory_bytes: int | None = None
    training_seconds: float | None = None
    evaluation_seconds: float | None = None  # with sample answers; beside `training_seconds`
    checkpoint_stall_seconds: float | None = None  # that steps waited for checkpoints; beside `training_seconds`
    others_share: float | None = None  # of the machine, that others used while it trained, from 0 to 1
    mfu: float | None = None  # model FLOPs utilisation over the steps of this attempt, from 0 to 1
    best_step: int | None = None  # where the best weights are kept: the step whose weights are the result
    # Fewer tokens, or more recomputation, than the plan's when memory ran out on the way.
    tokens_per_micro_step: int | None = None
    activation_checkpointing: str | None = None
    packs: bool = False  # rows went through the model together


class NotPlain(OSError):
    """A trainer has left a link, a pipe or a folder where a file belongs."""


class RunDirectory:
    """Paths of one run directory, and the two atomic writes both sides need."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.plan = root / "plan.json"
        self.metrics = root / "metrics.jsonl"
        self.events = root / "events.jsonl"
        self.phase = root / "phase"
        self.timeline = root / "timeline.jsonl"
        self.canary = root / "canary.json"
        self.checkpoints = root / "checkpoints"
        self.output = root / "output"
        self.dataset = root / "dataset.json"
        self.log = root / "log.txt"
        self.result = root / "result.json"
        self.stop = root / "stop"
        self.tokens = root / "tokens"
        self.ranks = root / "ranks"

    def create(self, request: TrainRequest) -> None:
        """Make the folders and write plan.json."""
        for folder in (self.root, self.checkpoints, self.output):
            folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.plan, request.model_dump_json(indent=2))

    def request(self) -> TrainRequest:
        """Read plan.json."""
        return TrainRequest.model_validate_json(self.plan.read_bytes())

    def write_result(self, result: TrainResult) -> None:
        """The trainer's last act."""
        write_atomically(self.result, result.model_dump_json(indent=2))

    def write_failure(self, failure: Failure) -> None:
        """The same after a failure: a complete output, as the adapter of a model that could not be merged, counts."""
        is_complete = (self.output / MANIFEST).is_file()
        made = self.request().plan.result_kind if is_complete else None
        self.write_result(TrainResult(failure=failure, steps=self.last_step(), output_kind=made))

    def write_rank_failure(self, rank: int, failure: Failure, *, processes: int) -> None:
        """The last act of one process of several; the message gets its rank and this host."""
        self.ranks.mkdir(exist_ok=True)
        message = f"Process {rank} of {processes} on {socket.gethostname()}: {failure.message}"
        named = failure.model_copy(update={"message": message, "rank": rank})
        write_atomically(self.ranks / f"{rank}.json", named.model_dump_json(indent=2))

    def read_rank_failures(self) -> dict[int, Failure]:
        """What is known of the ends of processes, by rank."""
        return {int(path.stem): Failure.model_validate_json(path.read_bytes()) for path in self.ranks.glob("*.json")}

    def last_step(self) -> int:
        """The last optimizer step on record, 0 before the first; what is being written right now is not on record."""
        if not self.metrics.exists():
            return 0
        whole_lines = self.metrics.read_bytes().split(b"\n")[:-1]
        return int(json.loads(whole_lines[-1])["step"]) if whole_lines else 0

    def write_dataset(self, facts: DatasetFacts) -> None:
        """What the trainer counted, exactly."""
        write_atomically(self.dataset, facts.model_dump_json(indent=2))

    def read_dataset(self) -> DatasetFacts:
        """The trainer's exact counts.

        Raises:
            FileNotFoundError: it has written none.
        """
        return DatasetFacts.model_validate_json(plain_bytes(self.dataset))

    def read_canary(self) -> CanaryReport | None:
        """None where the trainer made none."""
        return CanaryReport.model_validate_json(plain_bytes(self.canary)) if self.canary.exists() else None

    def ask_to_stop(self) -> None:
        """Make the stop file; not where a link of that name leads."""
        with contextlib.suppress(OSError):
            os.close(os.open(self.stop, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o644))

    def read_result(self) -> TrainResult | None:
        """None while there is no result, which after the exit of the trainer means that it was killed."""
        if not self.result.exists():
            return None
        return TrainResult.model_validate_json(plain_bytes(self.result))


def write_atomically(path: Path, text: str) -> None:
    """Write aside, fsync, rename, fsync the folder: a reader sees the old file or the new one, never half of either."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.unlink(missing_ok=True)
    with aside.open("x", encoding="utf-8") as file:  # never through a link that a trainer has left
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.rename(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def without_links(path: str, flags: int) -> int:
    """For `open(..., opener=without_links)`: a file of a run is a file, and no link or pipe that a trainer has left.

    Raises:
        NotPlain: it is something else.
    """
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise NotPlain(errno.EINVAL, "is no plain file", path) from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NotPlain(errno.EINVAL, "is no plain file", path)
    return descriptor


def plain_bytes(path: Path, *, most_bytes: int = _MOST_BYTES) -> bytes:
    """What a trainer has written, as far as a reasonable length.

    Raises:
        FileNotFoundError: there is none.
        NotPlain: it is something else.
    """
    with open(path, "rb", opener=without_links) as file:
        return file.read(most_bytes)


def append_line(path: Path, record: dict[str, Any]) -> None:
    """Append one JSON line in a single write, so that a follower never reads a torn line that later changes.

    Raises:
        OSError: the line could not be written whole; what was written of it has been taken back.
    """
    line = (json.dumps(record, separators=(",", ":"), allow_nan=True) + "\n").encode()
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        before = os.fstat(descriptor).st_size
        if os.write(descriptor, line) < len(line):  # a nearly full disk takes a part
            os.ftruncate(descriptor, before)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    finally:
        os.close(descriptor)
