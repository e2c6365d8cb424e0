"""An evaluation as one page: everything in it is escaped text, and it asks nobody for anything."""

import math
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from html import escape
from importlib.resources import files

from tunesmith.tuning.api.comparisons.evaluations import EvaluationObject
from tunesmith.tuning.evaluation import EvaluatedRow, Measures, SideResult
from tunesmith.tuning.gate.paired import Comparison
from tunesmith.tuning.gate.verdict import Verdict

PAGE_POLICY = "default-src 'none'; style-src 'unsafe-inline'"

_WORST, _OTHERS = 20, 10  # rows that are shown
_NAMES = {"loss": "loss, nats a token", "token_accuracy": "token accuracy", "score": "answers right"}


def report_page(evaluation: EvaluationObject, rows: Sequence[EvaluatedRow]) -> str:
    """The page. `rows` come with those first that speak most against the model."""
    body = [
        _head(evaluation),
        *(f"<p><strong>Warning:</strong> {escape(seen['text'])}</p>" for seen in evaluation.seen_rows),
        _verdict(evaluation),
        _measures(evaluation),
        _comparisons(evaluation),
        _histogram(rows),
        _samples("Rows that speak most against the model", rows[:_WORST]),
        _samples("Rows that speak most for it", rows[: _WORST - 1 : -1][:_OTHERS]),
        f"<footer>{escape(evaluation.id)}, created {_moment(evaluation.created_at)}</footer>",
    ]
    style = files(__package__).joinpath("report.css").read_text(encoding="utf-8")
    title = escape(f"Evaluation of {evaluation.model}")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{style}</style></head>'
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )


def _head(evaluation: EvaluationObject) -> str:
    against = f" against <b>{escape(evaluation.against)}</b>" if evaluation.against else ""
    score = f", answers scored by {escape(str(evaluation.score['type']))}" if evaluation.score else ""
    return (
        f"<h1>{escape(evaluation.model)}</h1><p class=lead>measured on {evaluation.rows:,} rows of "
        f"<b>{escape(evaluation.file)}</b>{against}{score}</p>"
    )


def _verdict(evaluation: EvaluationObject) -> str:
    if evaluation.verdict is None:
        return f"<p>{escape(evaluation.status)}</p>" if evaluation.measures is None else ""
    verdict = Verdict.model_validate(evaluation.verdict)
    kind = verdict.word.split()[0]
    return (
        f'<section class="verdict {escape(kind)}"><strong>{escape(verdict.word)}</strong>'
        f"<p>{escape(verdict.text)}</p></section>"
    )


def _measures(evaluation: EvaluationObject) -> str:
    sides = [(evaluation.model, evaluation.measures), (evaluation.against or "", evaluation.against_measures)]
    lines = [_measured(name, Measures.model_validate(found)) for name, found in sides if found is not None]
    if not lines:
        return ""
    titles = ("", "loss", "perplexity", "token accuracy", "answers right", "not ended", "tokens")
    return f"<h2>Measures</h2>{_table(titles, lines)}"


def _measured(name: str, found: Measures) -> list[str]:
    return [
        escape(name),
        f"{found.loss:.4f}",
        f"{math.exp(min(found.loss, 50)):,.2f}",
        f"{found.token_accuracy:.1%}",
        "" if found.score is None else f"{found.score:.1%}",
        "" if found.unfinished is None else f"{found.unfinished:,}",
        f"{found.tokens:,}",
    ]


def _comparisons(evaluation: EvaluationObject) -> str:
    found = Verdict.model_validate(evaluation.verdict) if evaluation.verdict else None
    if found is None or not found.comparisons:
        return ""
    title = f"Difference, with its interval at {found.confidence:.0%} confidence"
    return f"<h2>{title}</h2>{''.join(_comparison(one) for one in found.comparisons)}"


def _comparison(found: Comparison) -> str:
    number = _signed(found.difference, found.measure)
    between = "unbounded"
    if found.low is not None and found.high is not None:
        between = f"{_signed(found.low, found.measure)} to {_signed(found.high, found.measure)}"
    return (
        f'<div class="difference {escape(found.word.split()[0])}"><span class=name>{_NAMES[found.measure]}</span>'
        f"<span class=number>{number}</span><span class=bar>{_bar(found)}</span><span class=between>{between}</span>"
        f"<span class=word>{escape(found.word)}, p {found.p_value:.2g}</span></div>"
    )


def _bar(found: Comparison) -> str:
    """From nought in the middle: the interval, and the difference in it. To the right is better."""
    if found.low is None or found.high is None:
        return ""
    sign = -1 if found.measure == "loss" else 1
    reach = max(abs(found.low), abs(found.high), 1e-9)
    left, right = sorted(50 + sign * 48 * value / reach for value in (found.low, found.high))
    middle = 50 + sign * 48 * found.difference / reach
    return (
        '<svg viewBox="0 0 100 8" preserveAspectRatio="none" role="img"><line x1="50" x2="50" y1="0" y2="8"/>'
        f'<rect x="{left:.2f}" width="{max(0.4, right - left):.2f}" y="2.5" height="3"/>'
        f'<rect class="at" x="{middle - 0.3:.2f}" width="0.6" y="1" height="6"/></svg>'
    )


def _histogram(rows: Sequence[EvaluatedRow]) -> str:
    """How many rows gain and lose how much of their loss."""
    gains = [row.against.mean_loss - row.model.mean_loss for row in rows if row.against is not None]
    reach = max(map(abs, gains), default=0.0)
    if not reach:
        return ""
    counts = [0] * 20
    for gain in gains:
        counts[min(19, int((gain / reach + 1) * 10))] += 1
    most = max(counts)
    bars = "".join(
        f'<rect class="{"gain" if index >= 10 else "loss"}" x="{index * 5 + 0.4:.1f}" width="4.2" '
        f'y="{24 - 24 * number / most:.2f}" height="{24 * number / most:.2f}"/>'
        for index, number in enumerate(counts)
    )
    return (
        "<h2>Rows by how much lower their loss is</h2>"
        f'<svg class=histogram viewBox="0 0 100 24" preserveAspectRatio="none">{bars}</svg>'
        f"<div class=axis><span>{-reach:+.2f}</span><span>0</span><span>{reach:+.2f}</span></div>"
    )


def _samples(title: str, rows: Sequence[EvaluatedRow]) -> str:
    if not rows:
        return ""
    return f"<h2>{title}</h2>{''.join(map(_sample, rows))}"


def _sample(row: EvaluatedRow) -> str:
    sides = [("model", row.model)] + ([("against", row.against)] if row.against else [])
    asked = f"<div class=prompt>{escape(row.prompt_end)}</div>" if row.prompt_end else ""
    wanted = f"<div class=expected><i>expected</i>{escape(row.expected)}</div>" if row.expected else ""
    answers = "".join(_answer(name, side) for name, side in sides)
    return f"<article><h3>line {row.line:,}</h3>{asked}{wanted}<div class=sides>{answers}</div></article>"


def _answer(name: str, side: SideResult) -> str:
    mark = "" if side.hit is None else ("right" if side.hit else "wrong")
    parts = [name, mark, "cut off" if side.finished is False else "", f"loss {side.mean_loss:.3f}"]
    said = "" if side.answer is None else f"<div>{escape(side.answer) or '<i>nothing</i>'}</div>"
    return f'<div class="answer {mark}"><i>{", ".join(part for part in parts if part)}</i>{said}</div>'


def _table(titles: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{title}</th>" for title in titles)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in line)}</tr>" for line in lines)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _signed(value: float, measure: str) -> str:
    return f"{value:+.4f}" if measure == "loss" else f"{value * 100:+.1f} points"


def _moment(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, tz=UTC).strftime("%Y-%m-%d %H:%M UTC")
