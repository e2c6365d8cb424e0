"""Which rows each optimizer step sees: a function of seed, epoch and number of rows alone, the same everywhere."""

import hashlib

import numpy as np

# SplitMix64: the odd constant that its counter advances by, and the two multipliers of its mixing.
GOLDEN, FIRST_FACTOR, SECOND_FACTOR = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def epoch_order(rows: int, *, seed: int, epoch: int) -> np.ndarray:
    """All rows in the order of one epoch (the first is 0): int64 [rows]. A resumed run finds it again.

    Each row draws 64 bits from SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), and the rows are sorted by them. It is
    integer arithmetic, so no release of a library changes the order; the mixing is one to one, so no two draws tie.
    """
    start = hashlib.sha256(f"{seed}:{epoch}".encode()).digest()[:8]
    state = np.frombuffer(start, dtype="<u8") + np.arange(1, rows + 1, dtype=np.uint64) * np.uint64(GOLDEN)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(FIRST_FACTOR)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(SECOND_FACTOR)
    return np.argsort(state ^ (state >> np.uint64(31)))


def steps_per_epoch(rows: int, *, rows_per_step: int) -> int:
    """Optimizer steps that see every row once; the last may see fewer rows."""
    return -(-rows // rows_per_step)


class RowOrder:
    """The rows of each optimizer step. An epoch is put in order once, when the first of its steps is asked for."""

    def __init__(self, rows: int, *, rows_per_step: int, seed: int) -> None:
        self._rows, self._rows_per_step, self._seed = rows, rows_per_step, seed
        self._epoch, self._order = -1, np.zeros(0, dtype=np.int64)

    def of_step(self, step: int) -> list[int]:
        """Rows of optimizer step `step` (the first is 1)."""
        epoch, index = divmod(step - 1, steps_per_epoch(self._rows, rows_per_step=self._rows_per_step))
        if epoch != self._epoch:
            self._epoch, self._order = epoch, epoch_order(self._rows, seed=self._seed, epoch=epoch)
        chosen: list[int] = self._order[index * self._rows_per_step : (index + 1) * self._rows_per_step].tolist()
        return chosen
