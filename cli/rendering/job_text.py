"""One job in words: what was asked, what was decided and why, how it went, what to do next."""

import sys
from collections.abc import Collection, Iterable, Iterator

from tunesmith.cli import output
from tunesmith.cli.rendering.headlines import place_in_line, start_text
from tunesmith.tuning.api.base import recorded
from tunesmith.tuning.api.jobs import JobMeasurements, JobObject, JobWaiting
from tunesmith.tuning.api.metrics import MetricPoint, SampleObject
from tunesmith.tuning.plan import Plan, TimeEstimate
from tunesmith.tuning.values.units import gib, plural

_SHORT_CHARACTERS = 60  # of an answer


def describe(
    job: JobObject, *, waiting: JobWaiting | None, now: float, tracked_at: Iterable[str] = ()
) -> Iterator[str]:
    """Everything about a job, line by line.

    `waiting` is about one in line, `now` in Unix seconds, `tracked_at` where trackers show its runs.
    """
    ours = job.tunesmith
    yield f"{job.id}  {output.state(job.status).rstrip()}  {ours.phase or ''}".rstrip()
    yield f"model       {job.model}"
    yield f"files       {job.training_file}" + (f", validation {job.validation_file}" if job.validation_file else "")
    yield f"created     {output.moment(job.created_at)}"
    if ours.deadline:
        yield f"deadline    {output.moment(ours.deadline)}"
    if job.finished_at:
        yield f"finished    {output.moment(job.finished_at)}"
    if waiting is not None:
        yield from _line(waiting, now=now)
    elif ours.waiting_reason:
        yield f"waiting     {ours.waiting_reason}"
    if job.fine_tuned_model:
        yield f"result      {job.fine_tuned_model}"
    for url in tracked_at:
        yield f"tracked     {url}"
    if plan := plan_of(job):
        yield ""
        yield from describe_plan(plan)
        if ours.measured:
            yield from _measured(ours.measured, plan.time)
    if job.status == "failed":
        yield ""
        yield from describe_failure(job)


def plan_of(job: JobObject) -> Plan | None:
    """The plan of the job's newest attempt, whichever version made it."""
    return recorded(Plan, job.tunesmith.plan) if job.tunesmith.plan else None


def describe_plan(plan: Plan) -> Iterator[str]:
    """The plan, then each reason, then what was rejected and by which number."""
    yield from _decisions(plan)
    for reason in plan.reasons:
        yield output.beside("  because   ", f"{reason.text} ({reason.rule})", stream=sys.stdout)
    for other in plan.alternatives:
        yield output.beside(f"  not {other.method:<6}", other.rejected_because, stream=sys.stdout)


def describe_failure(job: JobObject) -> Iterator[str]:
    """What went wrong, whether trying again helps, what to do, and the last words of the trainer."""
    if job.error is None or job.tunesmith.failure is None:
        return
    error, failure = job.error, job.tunesmith.failure
    yield f"failed      {error.code}: {error.message}"
    if error.param:
        yield f"  field     {error.param}"
    again = "trying again may help" if failure.retryable else "trying again the same way will not help"
    yield f"  kind      {failure.category}; {again}"
    if failure.hint:
        yield f"  hint      {failure.hint}"
    for line in (failure.log_tail or "").splitlines()[-20:]:
        yield f"  log       {line}"


def describe_samples(samples: list[SampleObject]) -> Iterator[str]:
    """For each prompt its end, the reference, and the answers from the first step to the last."""
    for number, sample in enumerate(samples):
        if number:
            yield ""
        yield output.bold(f"line {sample.line} of the validation file", stream=sys.stdout)
        yield from _quoted("prompt", sample.prompt_end)
        yield from _quoted("reference", sample.reference)
        for answer in sample.answers:
            going_on = "" if answer.finished else " ..."
            yield from _quoted(f"step {answer.step}", (answer.answer or "(nothing)") + going_on)


def what_got_better(job: JobObject, points: Iterable[MetricPoint]) -> list[str]:
    """Loss and right tokens of held-out rows, before training and of the weights that are the result; one line each.

    Empty where nothing was measured twice.
    """
    measured = {point.step: point for point in points if point.valid_loss is not None}
    if len(measured) < 2:
        return []
    first, result = measured[min(measured)], measured[_result_step(job, measured)]
    lines = [f"validation loss {first.valid_loss:.3f} -> {result.valid_loss:.3f}"]
    before, after = first.valid_mean_token_accuracy, result.valid_mean_token_accuracy
    if before is not None and after is not None:
        rows = int(job.tunesmith.dataset.get("validation_rows") or 0)
        where = f"{rows} held-out {'row' if rows == 1 else 'rows'}" if rows else "held-out rows"
        lines.append(f"right tokens {before:.0%} -> {after:.0%}, on {where}")
    return lines


def answer_that_changed(samples: list[SampleObject]) -> str | None:
    """One held-out row's answer before and after training, in a line; None where none was taken twice."""
    for sample in samples:
        if len(sample.answers) > 1:
            before, after = (_short(sample.answers[place].answer) for place in (0, -1))
            return f"held-out line {sample.line}: {before} -> {after}"
    return None


def _result_step(job: JobObject, measured: Collection[int]) -> int:
    """The step whose weights the result holds: the best where those were kept, else the last."""
    best: int | None = (job.tunesmith.result or {}).get("best_step")
    return max(measured) if best is None or best not in measured else best


def _line(waiting: JobWaiting, *, now: float) -> Iterator[str]:
    """The place in line, who is ahead, when it starts, and why it waits."""
    parts = place_in_line(waiting)
    if start := start_text(waiting, now=now):
        parts.append(start)
    yield f"waiting     {', '.join(parts) or waiting.reason}"
    if parts:
        yield f"            {waiting.reason}"


def _short(answer: str) -> str:
    line = " ".join(answer.split())
    return f'"{line}"' if len(line) <= _SHORT_CHARACTERS else f'"{line[:_SHORT_CHARACTERS]}..."'


def _quoted(title: str, text: str) -> Iterator[str]:
    """A title beside a text of perhaps several lines."""
    for number, line in enumerate(text.splitlines() or [""]):
        yield f"  {title if number == 0 else '':<11} {line}".rstrip()


def _decisions(plan: Plan) -> Iterator[str]:
    precision = plan.precision + (f" over {plan.quantization}" if plan.quantization else "")
    processes = "1 process" if plan.world_size == 1 else f"{plan.world_size} processes"
    yield f"plan        {plan.method} in {precision} on {plan.device}, {processes}"
    if lora := plan.lora:
        targets = lora.target_modules if isinstance(lora.target_modules, str) else ", ".join(lora.target_modules)
        yield (
            f"  adapter   rank {lora.rank}, alpha {lora.alpha:g}, on {targets}, "
            f"{lora.trainable_parameters:,} parameters to train"
        )
    yield (
        f"  recipe    {plural(plan.total_steps, 'step')} of {plural(plan.rows_per_step, 'row')}, "
        f"{plural(plan.epochs, 'epoch')}, learning rate {plan.learning_rate:.3g} ({plan.schedule}), "
        f"up to {plan.tokens_per_micro_step:,} tokens at once"
    )
    if patience := plan.early_stopping_patience:
        yield (
            f"  stops     when {plural(patience, 'evaluation')} in a row {'is' if patience == 1 else 'are'} no better; "
            f"evaluated every {plural(plan.evaluation_interval_steps, 'step')}"
        )
    time = plan.time
    yield f"  memory    {gib(plan.memory.total_bytes)} predicted, {gib(plan.memory.budget_bytes)} may be used"
    yield (
        f"  time      {output.duration(time.seconds_low)} to {output.duration(time.seconds_high)} of training, "
        f"about {time.tokens_per_second:,.0f} tokens/s{_beside_training(time)}"
    )


def _beside_training(time: TimeEstimate) -> str:
    seconds = time.evaluation_seconds + time.sample_seconds
    return f", {output.duration(seconds)} of it for evaluations" if seconds >= 1 else ""


def _measured(run: JobMeasurements, time: TimeEstimate) -> Iterator[str]:
    """What the plan predicted beside what the run measured. On a GPU only the allocator's part can be measured."""
    if run.peak_memory_bytes is not None:
        predicted = gib(run.predicted_peak_memory_bytes)
        yield f"measured    memory: predicted {predicted}, measured {gib(run.peak_memory_bytes)}"
    if run.tokens_per_second is not None:
        speeds = f"predicted {time.tokens_per_second:,.0f} tokens/s, measured {run.tokens_per_second:,.0f}"
        yield f"            speed: {speeds}"
    if run.training_seconds is not None:
        low, high = output.duration(time.seconds_low), output.duration(time.seconds_high)
        whole = output.duration(run.training_seconds + (run.evaluation_seconds or 0.0))
        yield f"            training and evaluations: predicted {low} to {high}, measured {whole}"
    if run.mfu is not None and run.mfu <= 1:
        yield f"            MFU: {run.mfu:.1%} of what the device multiplies"
    if (stall := run.checkpoint_stall_seconds) is not None and run.training_seconds:
        share = stall / run.training_seconds
        yield f"            checkpoints: held training up for {output.duration(stall)}, {share:.1%} of it"
