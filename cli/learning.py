"""What a job is to learn and from what, as the command line says it."""

import re
from pathlib import Path
from typing import Any, NamedTuple

import typer

from tunesmith.tuning.words import Objective

_FILE_ID = re.compile(r"file-[A-Za-z0-9_-]+")


class Learning(NamedTuple):
    """What is learned and how often, as far as it was asked for."""

    objective: Objective | None
    epochs: int | None

    def of_rows(self, kind: str) -> "Learning":
        """The same for a file whose rows are for `kind`.

        Raises:
            typer.BadParameter: another objective was asked for.
        """
        found = Objective(kind)
        if self.objective not in (None, found):
            raise typer.BadParameter(f"The rows of this file are for {found.value}.", param_hint="--objective")
        return self._replace(objective=found)

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The API's, without those that were left out."""
        return {} if self.epochs is None else {"n_epochs": self.epochs}

    @property
    def fields(self) -> dict[str, Any]:
        """A request's `method` and hyperparameters. Without an objective the service looks at the rows."""
        return learned(self.objective, self.hyperparameters)


def learned(objective: Objective | None, hyperparameters: dict[str, Any]) -> dict[str, Any]:
    """What is learned and how, as a request has it; nothing where nothing was asked for."""
    if objective is not None:
        return {"method": {"type": objective.value, objective.value: {"hyperparameters": hyperparameters}}}
    return {"hyperparameters": hyperparameters} if hyperparameters else {}


def is_file_id(source: str) -> bool:
    """Whether this names a file that the service has, rather than one here."""
    return _FILE_ID.fullmatch(source) is not None and not Path(source).exists()
