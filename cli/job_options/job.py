"""The options of a job that no plan depends on: names, labels, limits of time and tries, and who else is told."""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

import typer

from tunesmith.cli.job_options.values import labels_of
from tunesmith.tuning.values.deadline import SPAN
from tunesmith.tuning.values.json_objects import Json, present


@dataclass(frozen=True, kw_only=True)
class JobOptions:
    """The part of a job that no plan depends on."""

    suffix: Annotated[str | None, typer.Option(help="A word in the name of the result.")] = None
    seed: Annotated[int | None, typer.Option(help="The same seed, data and plan give the same result.")] = None
    priority: Annotated[
        int | None, typer.Option(help="Jobs with more go first; -10 to 10, with an admin's key -100 to 100.")
    ] = None
    deadline: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="By when it must have ended, from now on (90m, 6h, 2d) or as a moment (2026-12-01T06:00+01:00); "
            "else it fails.",
        ),
    ] = None
    max_attempts: Annotated[int | None, typer.Option(help="How many attempts may fail; 1 tries nothing again.")] = None
    name: Annotated[str | None, typer.Option(help="Short for --metadata name=...")] = None
    metadata: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="May be given many times.")] = None
    wandb: Annotated[
        str | None, typer.Option(metavar="PROJECT", help="Send the curves to this project of Weights & Biases.")
    ] = None
    wandb_name: Annotated[str | None, typer.Option(help="What the run is called there.")] = None
    wandb_entity: Annotated[str | None, typer.Option(help="The team or user there.")] = None
    wandb_tag: Annotated[list[str] | None, typer.Option(help="A word to find it by; may be given many times.")] = None

    @property
    def fields(self) -> Json:
        """A request's own fields.

        Raises:
            typer.BadParameter: an option lacks the one that it belongs to, or a label is not written as one.
        """
        return present(
            suffix=self.suffix,
            seed=self.seed,
            metadata=labels_of(self.metadata, name=self.name) or None,
            integrations=self._integrations,
        )

    @property
    def ours(self) -> Json:
        """A request's `tunesmith`.

        Raises:
            typer.BadParameter: the deadline is neither a span nor a moment.
        """
        return present(
            priority=self.priority,
            deadline=None if self.deadline is None else _deadline(self.deadline),
            retry=None if self.max_attempts is None else {"max_attempts": self.max_attempts},
        )

    @property
    def _integrations(self) -> list[Json] | None:
        details = present(name=self.wandb_name, entity=self.wandb_entity, tags=self.wandb_tag or None)
        if self.wandb is not None:
            return [{"type": "wandb", "wandb": {"project": self.wandb, **details}}]
        if details:
            option = {"name": "--wandb-name", "entity": "--wandb-entity", "tags": "--wandb-tag"}[next(iter(details))]
            raise typer.BadParameter("It belongs to --wandb PROJECT.", param_hint=option)
        return None


def _deadline(text: str) -> int | str:
    """As the API takes it: spans as they are, moments in Unix seconds. Without a zone a moment is of this machine's."""
    if re.fullmatch(SPAN, text):
        return text
    try:
        return int(text) if text.isdecimal() else int(datetime.fromisoformat(text).timestamp())
    except (ValueError, OverflowError):
        example = "a span such as 90m, 6h or 2d, or a moment such as 2026-12-01T06:00+01:00"
        raise typer.BadParameter(f"{text!r:.60} is neither: write {example}.", param_hint="--deadline") from None
