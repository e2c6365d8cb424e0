"""An evaluation from its models to its rows file: each base loaded once, each model measured, every row written."""

import gc
import time
from collections.abc import Callable, Sequence

import torch

from tunesmith.tuning.codes import ArtifactKind
from tunesmith.tuning.evaluation import (
    ROWS_FILE,
    EvaluatedRow,
    EvaluationSpec,
    SideResult,
    measures_of,
)
from tunesmith.tuning.state import Phase
from tunesmith.worker.run_directory import TrainRequest, TrainResult, write_atomically
from tunesmith.worker.train.evaluation.answers import Questions
from tunesmith.worker.train.evaluation.losses import Steps, row_losses
from tunesmith.worker.train.evaluation.sides import Side, by_base, in_place, sides_of
from tunesmith.worker.train.loop.packing_choice import choose_packing
from tunesmith.worker.train.models.model import Learner, check_vocabulary, load_model
from tunesmith.worker.train.recorder import peak_memory_bytes
from tunesmith.worker.train.run import RunContext

Prepare = Callable[[TrainRequest], RunContext]


def evaluate(run: RunContext, *, prepare: Prepare) -> TrainResult:
    """Measure every model of the run and leave its rows; `prepare` reads the rows by another base's tokenizer.

    Raises:
        JobFailure: a model, an adapter or the memory does not do.
        Stopped: on request.
    """
    evaluation = run.request.spec.evaluation
    assert evaluation is not None  # noqa: S101 - who calls this has looked
    began = time.monotonic()
    run.recorder.phase(Phase.EVALUATING)
    sides = sides_of(run.request)
    steps = Steps(run, total=len(run.rows) * len(sides) * (1 if evaluation.score is None else 2))
    measured: dict[str, dict[int, SideResult]] = {}
    texts: dict[int, tuple[str, str]] = {}
    for group in by_base(sides):
        of_base = run if str(group[0].base) == run.request.model_dir else prepare(_with_base(run.request, group[0]))
        base = _Base(of_base, evaluation, steps)
        for side in group:
            measured[side.name] = base.measure(side)
        texts = base.texts() | texts
        del base
        gc.collect()
    rows = _rows(measured, texts)
    write_atomically(run.directory.output / ROWS_FILE, "".join(f"{row.model_dump_json()}\n" for row in rows))
    return _result(run, rows, seconds=time.monotonic() - began)


class _Base:
    """One loaded base with the rows as its tokenizer cuts them."""

    def __init__(self, run: RunContext, evaluation: EvaluationSpec, steps: Steps) -> None:
        model = load_model(run.model_folder, plan=run.plan, device=run.device)
        model.requires_grad_(False)
        check_vocabulary(model.get_input_embeddings().num_embeddings, run.rows)
        run.recorder.reached("model_loaded")
        self._run, self._steps = run, steps
        self._learner = Learner(model, attention=run.attention)
        choose_packing(run, self._learner)
        self._questions = None if evaluation.score is None else Questions(run, evaluation)

    @torch.no_grad()
    def measure(self, side: Side) -> dict[int, SideResult]:
        """By line of the file."""
        with in_place(side, self._learner, self._run):
            results = row_losses(self._run, self._learner, steps=self._steps)
            if self._questions is not None:
                said = self._questions.answers(self._learner, steps=self._steps)
                results = [
                    result.model_copy(update={"answer": one.text, "finished": one.finished, "hit": one.hit})
                    for result, one in zip(results, said, strict=True)
                ]
        lines = self._run.rows.line_numbers.tolist()
        return dict(zip(lines, results, strict=True))

    def texts(self) -> dict[int, tuple[str, str]]:
        """Prompt and expected answer by line; empty where nothing is scored."""
        if self._questions is None:
            return {}
        return {int(line): self._questions.texts(row) for row, line in enumerate(self._run.rows.line_numbers)}


def _with_base(request: TrainRequest, side: Side) -> TrainRequest:
    """The same rows for the other model's tokenizer."""
    other = request.against
    shape = other.measured_shape if other is not None and side.name == "against" else request.measured_shape
    return request.model_copy(update={"model_dir": str(side.base), "adapter_dir": None, "measured_shape": shape})


def _rows(measured: dict[str, dict[int, SideResult]], texts: dict[int, tuple[str, str]]) -> list[EvaluatedRow]:
    """Those that the model was measured on, each beside the other's where that has it too."""
    other = measured.get("against", {})
    return [
        EvaluatedRow(line=line, prompt_end=prompt, expected=expected, model=result, against=other.get(line))
        for line, result in sorted(measured["model"].items())
        for prompt, expected in (texts.get(line, ("", "")),)
    ]


def _result(run: RunContext, rows: Sequence[EvaluatedRow], *, seconds: float) -> TrainResult:
    whole = measures_of([row.model for row in rows])
    return TrainResult(
        output_kind=ArtifactKind.EVALUATION,
        steps=len(rows),
        supervised_tokens=whole.tokens,
        final_valid_loss=whole.loss,
        peak_memory_bytes=peak_memory_bytes(run.device),
        evaluation_seconds=round(seconds, 3),
    )
