"""The runs of a sweep, and what they say: how much worse "auto" is than the best of all."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from tunesmith.tuning.job import Hyperparameters, JobSpec, LoraOptions
from tunesmith.tuning.words import Method

Record = dict[str, Any]


class Point(NamedTuple):
    """One recipe: the rate as a multiple of what the rules choose, and the rank, or theirs."""

    multiplier: float = 1.0
    rank: int | None = None

    @property
    def name(self) -> str:
        return "auto" if self == AUTO else f"rate x {self.multiplier:g}, rank {self.rank or 'auto'}"

    def spec(self, *, seed: int) -> JobSpec:
        """The job that a person would submit for it: nothing else is fixed."""
        return JobSpec(
            model="recipe",
            method=Method.LORA,
            hyperparameters=Hyperparameters(learning_rate_multiplier=self.multiplier),
            lora=LoraOptions(rank=self.rank or "auto"),
            seed=seed,
        )


AUTO = Point()


def points(multipliers: Sequence[float], ranks: Sequence[int]) -> list[Point]:
    """A cross through "auto", which comes first: every rate at its rank, every rank at its rate."""
    return list(dict.fromkeys([AUTO, *map(Point, multipliers), *(Point(rank=rank) for rank in ranks)]))


def regret(records: Sequence[Record]) -> float | None:
    """The held-out loss of "auto" over the lowest of the sweep, less one, in the mean over seeds; None without both."""
    losses = dict(_mean_losses(records))
    return losses[AUTO.name] / min(losses.values()) - 1 if AUTO.name in losses else None


def render(records: Sequence[Record]) -> str:
    """A table for each task and its regret."""
    names = dict.fromkeys(record["task"] for record in records)
    return "\n\n".join(_table(name, [record for record in records if record["task"] == name]) for name in names)


def _table(task: str, records: Sequence[Record]) -> str:
    columns = "| recipe | learning rate | rank | held-out loss | over the best |"
    lines = [f"### {task}", "", columns, "|---|---|---|---|---|"]
    losses = dict(_mean_losses(records))
    for name, loss in losses.items():
        one = next(record for record in records if record["point"] == name)
        above = loss / min(losses.values()) - 1
        lines.append(f"| {name} | {one['learning_rate']:.2e} | {one['rank']} | {loss:.4f} | {above:+.2%} |")
    found = regret(records)
    told = "not measured" if found is None else f"{found:.2%}"
    return "\n".join([*lines, "", f"Regret of auto: {told} (goal: under 1 %)."])


def _mean_losses(records: Sequence[Record]) -> Iterator[tuple[str, float]]:
    for name in dict.fromkeys(record["point"] for record in records):
        losses = [record["held_out_loss"] for record in records if record["point"] == name]
        yield name, sum(losses) / len(losses)
