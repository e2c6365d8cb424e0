"""The page of published runs: how well the planner's formulas meet them, in all and run by run."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import fields

from benchmarks.pages import Reasons, bullets, page, paragraph, table
from benchmarks.published.fit import BOUNDS
from benchmarks.published.predict import HIDDEN_BY_FSDP, Prediction
from benchmarks.published.runs import HELD_OUT_SHARE, Book, Run
from tunesmith.tuning.estimates.gpu_speed import GpuSpeeds


def memory_errors(predictions: Sequence[Prediction]) -> list[float]:
    """Predicted over published less one, of runs whose figure was measured."""
    measured = (each for each in predictions if each.run.basis == "measured")
    return [each.memory_ratio - 1 for each in measured if each.memory_ratio is not None]


def speed_ratios(predictions: Sequence[Prediction]) -> list[float]:
    """Published over predicted speed."""
    return [each.speed_ratio for each in predictions if each.speed_ratio is not None]


def median_memory_error(predictions: Sequence[Prediction]) -> float:
    """Of the absolute errors."""
    return statistics.median(map(abs, memory_errors(predictions)))


def mean_speed_ratio(predictions: Sequence[Prediction]) -> float:
    """Geometric mean."""
    return statistics.geometric_mean(speed_ratios(predictions))


def share_within_range(predictions: Sequence[Prediction]) -> float:
    """Of the speeds, those that lie in the range that the planner states with its prediction."""
    return statistics.mean(each.within_range for each in predictions if each.within_range is not None)


def published_page(book: Book, predictions: Sequence[Prediction], *, speeds: GpuSpeeds) -> str:
    """The whole page."""
    reasons = Reasons()
    rows = [_row(book, each, reasons) for each in predictions]
    sources = bullets(f"{name}: {text}" for name, text in book.sources.items())
    return page(
        "The planner beside published runs",
        paragraph(
            """Written by `make bench-published` (`python -m benchmarks.published --page FILE`) from
            `benchmarks/published/runs.toml`. "Published" is what a source states; "predicted" is what the planner's own
            formulas say with the peer's settings; nothing on this page was measured by this project, which has had no
            GPU. A test holds the figures of the first table."""
        ),
        _summary(predictions),
        paragraph(
            f"""Constants of speed were fitted (`--fit`) to the runs that are not held out: a run is held out when the
            first byte of the SHA-256 of its name lies below {HELD_OUT_SHARE:.0%} of 256, so nobody chose. The formulas
            of memory have no fitted constant. The stated range is -35 % to +56 % of the time. "Rounded" sources give
            minima or estimates and are left out of the statistics."""
        ),
        paragraph(
            """What a peer's code keeps that ours does not is read in its sources and counted: whole logits, keys and
            values repeated for each head of a group (LitGPT, torchtune, torchtitan, PEFT's suite with its padding
            mask), gradients that come only with the backward pass where none are added up over micro-steps, and the
            fp32 sums of gradients that pure 16-bit training has not. Two things are unexplained: LitGPT's 4-bit runs
            of its configuration hub, with the same stack as those of its tables, and Qwen 1.8B and 72B at short rows,
            whose figures are of whole processes."""
        ),
        "## By source",
        _by_source(book, predictions),
        "## Constants of speed",
        _constants(speeds),
        paragraph(
            f"""FSDP, which most peers use, is taken to hide its communication behind {HIDDEN_BY_FSDP:.0%} of the
            arithmetic (assumed); this trainer uses DeepSpeed, whose runs are Qwen's alone."""
        ),
        "## Run by run",
        table(
            ("run", "part", "GB published", "predicted", "error", "tokens/s published", "predicted", "ratio", "why"),
            rows,
        ),
        reasons.listed(),
        "## Sources",
        sources,
    )


def _summary(predictions: Sequence[Prediction]) -> str:
    held_out = [each for each in predictions if each.run.is_held_out]
    fitted = [each for each in predictions if not each.run.is_held_out]
    rows = []
    for name, part in (("all", predictions), ("fitted", fitted), ("held out", held_out)):
        errors, ratios = memory_errors(part), speed_ratios(part)
        rows.append((
            name,
            len(errors),
            f"{median_memory_error(part):.1%}",
            f"{statistics.median(errors):+.1%}",
            f"{statistics.mean(abs(error) <= 0.1 for error in errors):.0%}",
            len(ratios),
            f"{mean_speed_ratio(part):.2f}",
            f"{math.exp(statistics.pstdev(map(math.log, ratios))):.2f}",
            f"{share_within_range(part):.0%}",
        ))  # fmt: skip
    header = ("runs", "with memory", "median error", "signed", "within 10 %", "with speed", "published / predicted")
    return table((*header, "spread (factor)", "in the range"), rows)


def _by_source(book: Book, predictions: Sequence[Prediction]) -> str:
    rows = []
    for source in book.sources:
        part = [each for each in predictions if each.run.source == source]
        errors, ratios = memory_errors(part), speed_ratios(part)
        rows.append((
            source,
            len(errors) or "",
            f"{statistics.median(map(abs, errors)):.0%}" if errors else "",
            f"{statistics.median(errors):+.0%}" if errors else "",
            len(ratios) or "",
            f"{statistics.geometric_mean(ratios):.2f}" if ratios else "",
        ))  # fmt: skip
    return table(("source", "with memory", "median error", "signed", "with speed", "published / predicted"), rows)


def _constants(speeds: GpuSpeeds) -> str:
    rows = [
        (f"`{field.name}`", f"{getattr(speeds, field.name):g}", "fitted" if field.name in BOUNDS else "assumed")
        for field in fields(speeds)
    ]
    return table(("constant of `tuning/estimates/gpu_speed.py`", "value", "basis"), rows)


def _row(book: Book, each: Prediction, reasons: Reasons) -> tuple[object, ...]:
    run, note = each.run, book.stack(each.run).note
    why = [reasons.number(text) for text in (note, run.reason, "" if run.read else "recomputation assumed") if text]
    part = "rounded" if run.basis == "rounded" else "held out" if run.is_held_out else "fitted"
    return (
        _short(run),
        part,
        *(_memory_cells(each) if each.memory_gb else ("", "", "")),
        *(_speed_cells(each) if each.tokens_per_second else ("", "", "")),
        ", ".join(map(str, why)),
    )


def _memory_cells(each: Prediction) -> tuple[str, str, str]:
    return f"{each.run.memory_gb:.1f}", f"{each.memory_gb:.1f}", f"{(each.memory_ratio or 1) - 1:+.0%}"


def _speed_cells(each: Prediction) -> tuple[str, str, str]:
    outside = "" if each.within_range else " OUT"
    return f"{each.run.tokens_per_second:,.0f}", f"{each.tokens_per_second:,.0f}", f"{each.speed_ratio:.2f}{outside}"


def _short(run: Run) -> str:
    return run.name.replace(f"/{run.stack}", "")
