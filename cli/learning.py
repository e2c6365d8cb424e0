"""What a job is to learn and from what, as the command line says it."""

import re
from pathlib import Path
from typing import Any, NamedTuple

import typer

from tunesmith.tuning.words import Objective

_FILE_ID = re.compile(r"file-[A-Za-z0-9_-]+")


class Learning(NamedTuple):
    """What is learned, and the API's hyperparameters, as far as they were asked for."""

    objective: Objective | None
    hyperparameters: dict[str, Any]

    def of_rows(self, kind: str) -> "Learning":
        """The same for a file whose rows are for `kind`.

        Raises:
            typer.BadParameter: another objective was asked for.
        """
        found = Objective(kind)
        if self.objective not in (None, found):
            option = "--beta" if "beta" in self.hyperparameters else "--objective"
            raise typer.BadParameter(f"The rows of this file are for {found.value}.", param_hint=option)
        return self._replace(objective=found)

    @property
    def fields(self) -> dict[str, Any]:
        """A request's `method` and hyperparameters. Without an objective the service looks at the rows."""
        if self.objective is not None:
            name = self.objective.value
            return {"method": {"type": name, name: {"hyperparameters": self.hyperparameters}}}
        return {"hyperparameters": self.hyperparameters} if self.hyperparameters else {}


def is_file_id(source: str) -> bool:
    """Whether this names a file that the service has, rather than one here."""
    return _FILE_ID.fullmatch(source) is not None and not Path(source).exists()
