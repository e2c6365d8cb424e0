"""What a job is to learn, as the command line says it."""

from enum import StrEnum
from typing import Any, NamedTuple

import typer


class ObjectiveChoice(StrEnum):
    """The values of --objective."""

    SUPERVISED = "supervised"
    DPO = "dpo"


class Learning(NamedTuple):
    """What is learned and how often, as far as it was asked for."""

    objective: ObjectiveChoice | None
    epochs: int | None

    def of_rows(self, kind: str) -> "Learning":
        """The same for a file whose rows are for `kind`.

        Raises:
            typer.BadParameter: another objective was asked for.
        """
        found = ObjectiveChoice(kind)
        if self.objective not in (None, found):
            raise typer.BadParameter(f"The rows of this file are for {found.value}.", param_hint="--objective")
        return self._replace(objective=found)

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The API's, without those that were left out."""
        return {} if self.epochs is None else {"n_epochs": self.epochs}

    @property
    def method(self) -> dict[str, Any]:
        """A request's `method`, unless nothing was asked for."""
        if self == Learning(None, None):
            return {}
        kind = (self.objective or ObjectiveChoice.SUPERVISED).value
        return {"method": {"type": kind, kind: {"hyperparameters": self.hyperparameters}}}
