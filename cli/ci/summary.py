"""The run as a page in Markdown, for the summary of a step and for a comment."""

import html
from collections.abc import Iterator
from pathlib import Path

from tunesmith.cli import output
from tunesmith.cli.ci.ending import Champion, Ending, result_point
from tunesmith.cli.exit_codes import ExitCode
from tunesmith.tuning.api.metrics import SampleObject

_MOST_PROBLEMS = 40
_LONGEST_TEXT = 1_500  # characters of one sample
_LOG_LINES = 20


def append_summary(path: Path, ending: Ending) -> None:
    """Add the page to the file: other steps write there too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8", errors="replace") as file:
        file.write("\n".join(summary_lines(ending)) + "\n")


def summary_lines(ending: Ending) -> Iterator[str]:
    """The page: how it ended, a table of numbers, the gate, problems with their lines, sample answers."""
    mark = "✅" if ending.code is ExitCode.SUCCEEDED else "❌"
    yield f"### {mark} Tunesmith: {_text(ending.headline)}"
    yield ""
    yield from _numbers(ending)
    yield from _gate(ending)
    yield from _problems(ending)
    yield from _log(ending)
    for hint in ending.hints:
        yield f"- {_text(hint)}"
    yield from _samples(ending)


def _numbers(ending: Ending) -> Iterator[str]:
    job = ending.job
    if job is None:
        return
    yield "| | |"
    yield "|---|---|"
    yield f"| job | `{job.id}` |"
    yield f"| base | {_text(job.model)} |"
    if job.fine_tuned_model:
        yield f"| result | `{job.fine_tuned_model}` |"
    yield f"| method | {job.tunesmith.method} |"
    if job.finished_at:
        yield f"| time | {output.duration(job.finished_at - job.created_at)} from submit to end |"
    if job.tunesmith.progress.total_steps:
        yield f"| steps | {job.tunesmith.progress.step or 0} of {job.tunesmith.progress.total_steps} |"
    yield from _measured(ending)
    yield ""


def _measured(ending: Ending) -> Iterator[str]:
    losses = [point.train_loss for point in ending.points if point.train_loss is not None]
    if losses:
        yield f"| training loss | {losses[0]:.4f} to {losses[-1]:.4f} |"
    result = result_point(ending.job, ending.points) if ending.job else None
    first = next((point for point in ending.points if point.valid_loss is not None), None)
    if result is None or first is None or result.valid_loss is None or first.valid_loss is None:
        return
    yield f"| validation loss | {first.valid_loss:.4f} to **{result.valid_loss:.4f}** |"
    if (accuracy := result.valid_mean_token_accuracy) is not None:
        before = first.valid_mean_token_accuracy
        yield f"| token accuracy | {f'{before:.1%} to ' if before is not None else ''}**{accuracy:.1%}** |"
    if (champion := ending.champion) is not None:
        rows = "" if champion.is_on_the_same_rows else "; on other held-out rows"
        compared = f"{champion.validation_loss:.4f}, this one is {_beside(result.valid_loss, champion)}{rows}"
        yield f"| champion {_text(champion.name)} | {compared} |"
    elif ending.missing_champion is not None:
        yield f"| champion {_text(ending.missing_champion)} | nothing is known of it to compare with |"


def _beside(loss: float, champion: Champion) -> str:
    text = f"{abs(loss - champion.validation_loss):.4f}"
    if float(text) == 0:
        return "the same"
    return f"{text} {'better' if loss < champion.validation_loss else 'worse'}"


def _gate(ending: Ending) -> Iterator[str]:
    for check in ending.checks:
        yield f"- {'✅' if check.passed else '❌'} gate `{check.name}`: {_text(check.sentence)}"
    if ending.checks:
        yield ""


def _problems(ending: Ending) -> Iterator[str]:
    for problem in ending.problems[:_MOST_PROBLEMS]:
        yield f"- {_code(problem.file)}{f' line {problem.line}' if problem.line else ''}: {_text(problem.message)}"
    if len(ending.problems) > _MOST_PROBLEMS:
        yield f"- and {len(ending.problems) - _MOST_PROBLEMS} more"
    if ending.problems:
        yield ""


def _log(ending: Ending) -> Iterator[str]:
    failure = ending.job.tunesmith.failure if ending.job else None
    if failure is not None and failure.log_tail:
        yield from _folded("The last lines of the log", "\n".join(failure.log_tail.splitlines()[-_LOG_LINES:]))


def _samples(ending: Ending) -> Iterator[str]:
    for sample in ending.samples:
        if sample.answers:
            yield from _folded(f"Answer to the held-out prompt of line {sample.line}", _sample(sample))


def _sample(sample: SampleObject) -> str:
    last = sample.answers[-1]
    parts = {
        "prompt": sample.prompt_end,
        "reference": sample.reference,
        f"step {sample.answers[0].step}": sample.answers[0].answer,
        f"step {last.step}": last.answer,
    }
    return "\n\n".join(f"[{name}]\n{text[:_LONGEST_TEXT]}" for name, text in parts.items())


def _folded(title: str, text: str) -> Iterator[str]:
    """Text as it is: inside of `pre` nothing is Markdown, and nothing left is HTML."""
    yield f"<details><summary>{_text(title)}</summary><pre>"
    yield from html.escape(text).replace("\n\n", "\n&#8203;\n").splitlines()
    yield "</pre></details>"
    yield ""


def _code(text: str) -> str:
    """Between backticks, where nothing is Markdown: a backslash would be shown."""
    return f"`{' '.join(text.split()).replace('`', chr(39))}`"


def _text(text: str) -> str:
    """On one line, with nothing that means something in Markdown or HTML."""
    escaped = html.escape(" ".join(text.split()), quote=False)
    return "".join(f"\\{letter}" if letter in "\\`*_[]|#" else letter for letter in escaped)
