"""Histories in which everything goes wrong but the rows. `SEED=7 make t F=tests/simulation` plays one again."""

import asyncio
import os

import pytest

from tests.control_plane import ControlPlane
from tests.simulation.history import play

FEW, ALL = 2, 202  # in every run, and in `make chaos`


def seeds() -> list[object]:
    if "SEED" in os.environ:
        return [int(os.environ["SEED"])]
    return [*range(FEW), *(pytest.param(seed, marks=pytest.mark.chaos) for seed in range(FEW, ALL))]


@pytest.mark.parametrize("seed", seeds())
def test_a_history_ends_as_promised(control_plane: ControlPlane, seed: int) -> None:
    training_file = control_plane.upload()
    asyncio.run(play(control_plane, seed=seed, training_file=training_file))
