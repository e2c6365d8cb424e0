"""Why a plan is what it is, in a few lines: the first reasons, what was rejected, what else could be done."""

from collections.abc import Iterator

from tunesmith.cli import output
from tunesmith.tuning.plan import Plan, Refusal, Way, Ways
from tunesmith.tuning.values.units import duration, gib

REASONS_FIRST = 3
_WIDTH = 18
_LIKELY = 0.01  # a probability of running out of memory that is worth a word


def explain(decision: Plan | Refusal, *, why: bool) -> Iterator[str]:
    """A plan or a refusal as the planner made it. Without `why` the first three reasons only."""
    ways = decision.ways if isinstance(decision, Plan) else None
    shown = decision.reasons if why or not ways else decision.reasons[:REASONS_FIRST]
    for reason in shown:
        yield _line(reason.rule, reason.text)
    if ways:  # the reasons of a refusal speak of every method
        for other in decision.alternatives:
            yield _line(f"not {other.method}", other.rejected_because)
        yield from _ways(ways)
    for change in decision.changes if isinstance(decision, Plan) else ():
        yield _line("with more", change.text)
    if left := len(decision.reasons) - len(shown):
        yield output.dim(f"  {left} more reasons with --why")


def method_text(way: Plan | Way) -> str:
    """The method and what is done to its weights and optimizer: `lora zero-3`, `full 8-bit-adam`."""
    words = [way.method.value]
    if way.zero_stage:
        words.append(f"zero-{way.zero_stage}")
    if way.sharded_base:
        words.append("sharded")
    if way.optimizer == "adamw_8bit":
        words.append("8-bit-adam")
    if way.offload_optimizer:
        words.append("offload")
    return " ".join(words)


def _ways(ways: Ways) -> Iterator[str]:
    """One line for each end, or for those that are the same."""
    names: dict[str, list[str]] = {}
    for name, way in (("quickest", ways.quickest), ("cheapest", ways.cheapest), ("safest", ways.safest)):
        names.setdefault(_way(way), []).append(name)
    for text, alike in names.items():
        yield _line(alike[0], text if len(alike) == 1 else f"{text}; also the {' and the '.join(alike[1:])}")


def _way(way: Way) -> str:
    """`lora on 8 GPUs: 8 min, 65 min of GPU time, 31.2 GiB`."""
    devices = f" on {way.world_size} GPUs" if way.world_size > 1 else ""
    all_together = f", {duration(way.device_seconds)} of GPU time" if way.world_size > 1 else ""
    risk = way.out_of_memory_probability
    likely = f", {risk:.0%} likely to run out of memory" if risk >= _LIKELY else ""
    return f"{method_text(way)}{devices}: {duration(way.seconds)}{all_together}, {gib(way.peak_bytes)}{likely}"


def _line(title: str, text: str) -> str:
    return output.beside(f"  {title.ljust(_WIDTH)}  ", text)
