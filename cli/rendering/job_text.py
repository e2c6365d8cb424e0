"""One job in words: what was asked, what was decided and why, how it went, what to do next."""

import sys
from collections.abc import Iterator

from tunesmith.cli import output
from tunesmith.tuning.json_objects import Json
from tunesmith.tuning.units import gib


def describe(job: Json) -> Iterator[str]:
    """Everything about a job, line by line."""
    ours = job.get("tunesmith") or {}
    yield f"{job['id']}  {output.state(job['status']).rstrip()}  {ours.get('phase') or ''}".rstrip()
    yield f"model       {job['model']}"
    yield f"files       {job['training_file']}" + (
        f", validation {job['validation_file']}" if job.get("validation_file") else ""
    )
    yield f"created     {output.moment(job['created_at'])}"
    if job.get("finished_at"):
        yield f"finished    {output.moment(job['finished_at'])}"
    if ours.get("waiting_reason"):
        yield f"waiting     {ours['waiting_reason']}"
    if job.get("fine_tuned_model"):
        yield f"result      {job['fine_tuned_model']}"
    if plan := ours.get("plan"):
        yield ""
        yield from describe_plan(plan)
        yield from _measured(ours.get("measured") or {}, plan)
    if job["status"] == "failed":
        yield ""
        yield from describe_failure(job)


def describe_plan(plan: Json) -> Iterator[str]:
    """The plan, then each reason, then what was rejected and by which number."""
    yield from _decisions(plan)
    for reason in plan.get("reasons", ()):
        yield f"  because   {reason['text']}  {output.dim('(' + reason['rule'] + ')')}"
    for other in plan.get("alternatives", ()):
        yield f"  not {other['method']:<6}{other['rejected_because']}"


def describe_failure(job: Json) -> Iterator[str]:
    """What went wrong, whether trying again helps, what to do, and the last words of the trainer."""
    error, failure = job.get("error") or {}, (job.get("tunesmith") or {}).get("failure") or {}
    yield f"failed      {error.get('code') or 'unknown'}: {error.get('message') or 'no reason was recorded'}"
    if error.get("param"):
        yield f"  field     {error['param']}"
    if failure.get("category"):
        again = "trying again may help" if failure.get("retryable") else "trying again the same way will not help"
        yield f"  kind      {failure['category']}; {again}"
    if failure.get("hint"):
        yield f"  hint      {failure['hint']}"
    for line in (failure.get("log_tail") or "").splitlines()[-20:]:
        yield f"  log       {line}"


def describe_samples(samples: list[Json]) -> Iterator[str]:
    """For each prompt its end, the reference, and the answers from the first step to the last."""
    for number, sample in enumerate(samples):
        if number:
            yield ""
        yield output.bold(f"line {sample['line']} of the validation file", stream=sys.stdout)
        yield from _quoted("prompt", sample["prompt_end"])
        yield from _quoted("reference", sample["reference"])
        for answer in sample["answers"]:
            going_on = "" if answer["finished"] else " ..."
            yield from _quoted(f"step {answer['step']}", (answer["answer"] or "(nothing)") + going_on)


def _quoted(title: str, text: str) -> Iterator[str]:
    """A title beside a text of perhaps several lines."""
    for number, line in enumerate(text.splitlines() or [""]):
        yield f"  {title if number == 0 else '':<11} {line}".rstrip()


def _decisions(plan: Json) -> Iterator[str]:
    precision = plan["precision"] + (f" over {plan['quantization']}" if plan.get("quantization") else "")
    yield f"plan        {plan['method']} in {precision} on {plan['device']}, {plan['world_size']} process(es)"
    if lora := plan.get("lora"):
        targets = lora["target_modules"]
        targets = targets if isinstance(targets, str) else ", ".join(targets)
        yield (
            f"  adapter   rank {lora['rank']}, alpha {lora['alpha']:g}, on {targets}, "
            f"{lora['trainable_parameters']:,} parameters to train"
        )
    yield (
        f"  recipe    {plan['total_steps']} steps of {plan['rows_per_step']} rows, {plan['epochs']} epoch(s), "
        f"learning rate {plan['learning_rate']:.3g} ({plan['schedule']}), "
        f"up to {plan['tokens_per_micro_step']:,} tokens at once"
    )
    if patience := plan.get("early_stopping_patience"):
        yield (
            f"  stops     when {patience} evaluation(s) in a row are no better; "
            f"evaluated every {plan['evaluation_interval_steps']} steps"
        )
    memory, time = plan["memory"], plan["time"]
    yield f"  memory    {gib(memory['total_bytes'])} predicted, {gib(memory['budget_bytes'])} may be used"
    yield (
        f"  time      {output.duration(time['seconds_low'])} to {output.duration(time['seconds_high'])} of training, "
        f"about {time['tokens_per_second']:,.0f} tokens/s{_beside_training(time)}"
    )


def _beside_training(time: Json) -> str:
    seconds = time.get("evaluation_seconds", 0.0) + time.get("sample_seconds", 0.0)
    return f", {output.duration(seconds)} of it for evaluations" if seconds >= 1 else ""


def _measured(measured: Json, plan: Json) -> Iterator[str]:
    """What the plan predicted beside what the run measured. On a GPU only the allocator's part can be measured."""
    peak, speed = measured.get("peak_memory_bytes"), measured.get("tokens_per_second")
    seconds, time = measured.get("training_seconds"), plan["time"]
    if peak is not None:
        yield f"measured    memory: predicted {gib(measured['predicted_peak_memory_bytes'])}, measured {gib(peak)}"
    if speed is not None:
        yield f"            speed: predicted {time['tokens_per_second']:,.0f} tokens/s, measured {speed:,.0f}"
    if seconds is not None:
        low, high = output.duration(time["seconds_low"]), output.duration(time["seconds_high"])
        whole = output.duration(seconds + (measured.get("evaluation_seconds") or 0.0))
        yield f"            training and evaluations: predicted {low} to {high}, measured {whole}"
    if (mfu := measured.get("mfu")) is not None:
        yield f"            MFU: {mfu:.1%} of what the device multiplies"
    if (stall := measured.get("checkpoint_stall_seconds")) is not None and seconds:
        yield f"            checkpoints: held training up for {output.duration(stall)}, {stall / seconds:.1%} of it"
