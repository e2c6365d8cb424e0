"""One run from request to result: devices, data, the plan's method, and every ending written down."""

import contextlib
import importlib
import importlib.metadata
import os
import platform
import traceback
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Protocol, cast

import torch
import torch.distributed
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, set_seed
from transformers import PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import Failure
from tunesmith.tuning.models.shape import ModelShape
from tunesmith.tuning.state import Phase
from tunesmith.worker.run_directory import (
    EXIT_FAILED,
    EXIT_STOPPED,
    RunDirectory,
    TrainRequest,
    TrainResult,
)
from tunesmith.worker.train.attention.choice import choose_attention
from tunesmith.worker.train.chat.conversation import default_template
from tunesmith.worker.train.chat.stop_tokens import stop_tokens
from tunesmith.worker.train.checkpoints.state import TrainState
from tunesmith.worker.train.data.cache import RowCache, cached_rows, rows_key
from tunesmith.worker.train.data.report import tell_about_rows
from tunesmith.worker.train.data.rows import ALL_LINES, LineChoice, Rows, exact_facts, load_rows
from tunesmith.worker.train.failures import failure_of, user_error
from tunesmith.worker.train.kernels.choice import choose_kernels
from tunesmith.worker.train.loop.loop import Stopped
from tunesmith.worker.train.models.model import check_config, check_vocabulary, load_tokenizer, read_config
from tunesmith.worker.train.optim.zero import check_available
from tunesmith.worker.train.recorder import Recorder, peak_memory_bytes
from tunesmith.worker.train.run import RunContext

# The main process alone tokenises a file, which may hold millions of conversations, and hashes a checkpoint, which may
# be hundreds of gigabytes, while the others wait.
PROCESS_GROUP_TIMEOUT = timedelta(hours=6)
VERSIONED = (
    "accelerate", "bitsandbytes", "deepspeed", "numpy", "peft", "safetensors", "tokenizers", "torch", "transformers",
)  # fmt: skip


def train_to_result(request: TrainRequest, directory: RunDirectory) -> int:
    """Train; returns the exit code. A trace of an unexpected error goes to the log, never into the result."""
    recorder = Recorder(directory)
    try:
        recorder.phase(Phase.PREPARING)
        run = prepare(request, directory)
        result = _work(run)
    except Stopped:
        # torchrun takes any other code than 0 for a failure and would kill those that are still writing
        return 0 if _is_one_of_several() else EXIT_STOPPED
    except Exception as error:
        traceback.print_exc()
        return _fail(directory, recorder, failure_of(error, step=directory.last_step()))
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    if run.is_main:
        directory.write_result(result)
    run.recorder.reached("result_written")
    return 0


def prepare(request: TrainRequest, directory: RunDirectory) -> RunContext:
    """Devices, seeds, tokenizer and tokenised rows.

    Raises:
        JobFailure: the plan asks for what this trainer cannot do, or data or tokenizer cannot be used.
    """
    check_available(request)
    accelerator = _processes_and_devices(request)
    recorder = Recorder(directory, active=accelerator.is_main_process)
    folder = Path(request.model_dir)
    shape = ModelShape.from_config(read_config(folder), measured=request.measured_shape)
    check_config(folder)
    tokenizer = load_tokenizer(folder)
    cache = _row_cache(request, directory, recorder, processes=accelerator.num_processes)
    loader = _RowLoader(request, tokenizer, cache, accelerator=accelerator)
    planned = request.plan.max_sequence_length
    longest = planned if request.cut_long_rows else max(planned, shape.context_length)
    rows = loader.load(request.training_file, longest, param="training_file", lines=_lines_to_read(request))
    if not request.cut_long_rows:
        _refuse_longer_than_planned(rows, request, directory, active=accelerator.is_main_process)
    choose_kernels(shape, device=accelerator.device, precision=request.plan.precision, recorder=recorder)
    run = RunContext(
        request=request,
        directory=directory,
        recorder=recorder,
        shape=shape,
        tokenizer=tokenizer,
        rows=rows,
        validation_rows=None if request.spec.evaluation else _validation_rows(request, loader),
        device=accelerator.device,
        versions=_versions(),
        attention=choose_attention(request.plan, shape, device=accelerator.device, recorder=recorder),
        rank=accelerator.process_index,
        processes=accelerator.num_processes,
    )
    check_vocabulary(shape.vocab_size, run.rows, run.validation_rows)
    held_out = () if request.spec.evaluation else sorted(request.held_out_lines)
    tell_about_rows(rows, recorder, max_sequence_length=planned, held_out=held_out)
    recorder.reached("rows_ready")
    return run


def _lines_to_read(request: TrainRequest) -> LineChoice:
    """Of the training file: all but those held out. Of an evaluation those that were chosen, if any were."""
    chosen = frozenset(request.held_out_lines)
    return LineChoice(chosen, wants_held_out=request.spec.evaluation is not None and bool(chosen))


def _work(run: RunContext) -> TrainResult:
    """Train by the plan's method, or measure models."""
    if run.request.spec.evaluation is None:
        return _result(run, _method(run).train(run))
    from tunesmith.worker.train.evaluation.run import evaluate  # adapter libraries cost two seconds

    return evaluate(run, prepare=lambda request: prepare(request, run.directory))


def _processes_and_devices(request: TrainRequest) -> Accelerator:
    """Join the other processes, if the run has several, on this one's device, with the plan's seed."""
    patience = InitProcessGroupKwargs(timeout=PROCESS_GROUP_TIMEOUT)
    accelerator = Accelerator(cpu=request.plan.device == "cpu", mixed_precision="no", kwargs_handlers=[patience])
    disable_progress_bar()
    _limit_threads(request.plan.device)
    set_seed(request.plan.seed)
    return accelerator


def _limit_threads(device: str) -> None:
    """As many threads as cores this process may use; more only make them wait for each other."""
    if device == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(len(os.sched_getaffinity(0)))


def _row_cache(
    request: TrainRequest, directory: RunDirectory, recorder: Recorder, *, processes: int
) -> RowCache | None:
    """None where nobody would read what is written: no folder was given, and no other process waits for it."""
    if request.token_cache is None and processes == 1:
        return None
    shared = Path(request.token_cache) if request.token_cache else None
    return RowCache(directory.tokens, shared=shared, recorder=recorder)


class _RowLoader:
    """Loads the rows of a run's files, through the cache of tokenised rows where the run has one."""

    def __init__(
        self,
        request: TrainRequest,
        tokenizer: PreTrainedTokenizerBase,
        cache: RowCache | None,
        *,
        accelerator: Accelerator,
    ) -> None:
        self._folder, self._tokenizer, self._cache = Path(request.model_dir), tokenizer, cache
        self._accelerator = accelerator
        self._template = tokenizer.chat_template  # the one that came with the model: loading may set a default
        self._stop_tokens = stop_tokens(self._folder, tokenizer)
        self._settings: dict[str, Any] = {
            "objective": request.plan.objective,
            "stop_tokens": self._stop_tokens,
            "today": request.spec.template_date,
            "on_long_row": request.plan.on_long_row,
            "on_dropped_content": request.spec.on_dropped_content,
        }

    def load(self, path: str, max_sequence_length: int, *, param: str, lines: LineChoice = ALL_LINES) -> Rows:
        """The wanted `lines` of a file as rows of at most so many tokens; `param` is what errors call the file."""
        settings = self._settings | ({"lines": lines} if lines != ALL_LINES else {})
        read = partial(
            load_rows,
            Path(path),
            tokenizer=self._tokenizer,
            max_sequence_length=max_sequence_length,
            param=param,
            **settings,
        )
        if self._cache is None:
            return read()
        rows = cached_rows(
            self._cache,
            rows_key(Path(path), model_folder=self._folder, template=self._template, settings=settings),
            limit=max_sequence_length,
            load=read,
            is_main=self._accelerator.is_main_process,
            wait=self._accelerator.wait_for_everyone,
        )
        if rows.notes.default_template:  # as who renders them does: the result carries it
            self._tokenizer.chat_template = default_template(self._tokenizer, self._stop_tokens)
        return rows


def _validation_rows(request: TrainRequest, loader: _RowLoader) -> Rows | None:
    """Those of a file of their own, else those that the training file holds out."""
    planned = request.plan.max_sequence_length
    if request.validation_file:
        return loader.load(request.validation_file, planned, param="validation_file")
    if not request.held_out_lines:
        return None
    lines = LineChoice(frozenset(request.held_out_lines), wants_held_out=True)
    return loader.load(request.training_file, planned, param="training_file", lines=lines)


def _method(run: RunContext) -> "_Method":
    """One module per method; only the chosen one is imported, because adapter libraries cost two seconds."""
    return cast("_Method", importlib.import_module(f"tunesmith.worker.train.methods.{run.plan.method.value}"))


class _Method(Protocol):
    def train(self, run: RunContext) -> TrainState: ...


def _refuse_longer_than_planned(rows: Rows, request: TrainRequest, directory: RunDirectory, *, active: bool) -> None:
    """A plan on estimated lengths would cut rows: leave the exact ones for a plan that does not.

    Raises:
        JobFailure: `rows_longer_than_planned`; the counts are in the run directory.
    """
    exact, planned = exact_facts(rows, planned=request.dataset), request.plan.max_sequence_length
    if exact.longest_row_tokens <= planned:
        return
    if active:
        directory.write_dataset(exact)
    raise user_error(
        ErrorCode.ROWS_LONGER_THAN_PLANNED,
        f"The longest row has {exact.longest_row_tokens:,} tokens; the plan takes {planned:,}.",
        hint="The worker plans again with the exact lengths.",
        param="training_file",
    )


def _result(run: RunContext, progress: TrainState) -> TrainResult:
    seconds = progress.training_seconds
    return TrainResult(
        output_kind=run.plan.result_kind,
        steps=progress.step,
        trained_tokens=progress.trained_tokens,
        supervised_tokens=progress.supervised_tokens,
        first_valid_loss=progress.first_valid_loss,
        final_valid_loss=progress.last_valid_loss,
        final_train_loss=progress.last_train_loss,
        tokens_per_second=progress.trained_tokens / seconds if seconds else None,
        peak_memory_bytes=peak_memory_bytes(run.device),
        training_seconds=seconds,
        evaluation_seconds=round(progress.evaluation_seconds, 3),
        checkpoint_stall_seconds=round(progress.checkpoint_stall_seconds, 3),
        mfu=progress.mfu,
        others_share=progress.others_share,
        best_step=progress.best_step if run.plan.keeps_best_weights else None,
        tokens_per_micro_step=progress.token_budget // run.rows.sequences_per_row or None,
        activation_checkpointing=progress.activation_checkpointing or None,
        packs=progress.packs,
    )


def _fail(directory: RunDirectory, recorder: Recorder, failure: Failure) -> int:
    if _is_one_of_several():  # the launcher knows which of several failed first
        processes = int(os.environ["WORLD_SIZE"])
        directory.write_rank_failure(int(os.environ["RANK"]), failure, processes=processes)
        return EXIT_FAILED
    level = "info" if failure.code == ErrorCode.ROWS_LONGER_THAN_PLANNED else "error"  # the worker goes on from there
    recorder.event(failure.message, level=level, code=failure.code)
    directory.write_failure(failure)
    return EXIT_FAILED


def _is_one_of_several() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in VERSIONED:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # deepspeed is an extra
            found[name] = importlib.metadata.version(name)
    return found
