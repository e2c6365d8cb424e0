"""What earlier measurements change about a prediction, by method and, where known, by the kernels that ran."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Ratios:
    """Measured over predicted; None where nothing is known. `basis` says in words which measurements it rests on."""

    memory: float | None = None
    speed: float | None = None
    basis: str = ""
    speed_spread: float | None = None  # how far off the next run may be: a share of the speed


@dataclass(frozen=True, slots=True)
class Corrections:
    """Ratios of one method on one kind of hardware, and finer ones by `Plan.kernels`."""

    memory: float | None = None
    speed: float | None = None
    basis: str = ""
    speed_spread: float | None = None
    memory_spread: float | None = None  # standard deviation of the logarithm of measured over predicted
    by_kernels: Mapping[str, Ratios] = field(default_factory=dict)

    def of(self, kernels: str) -> Ratios:
        """The finest that is known."""
        return self.by_kernels.get(kernels) or Ratios(self.memory, self.speed, self.basis, self.speed_spread)
