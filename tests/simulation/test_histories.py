"""Histories in which everything goes wrong but the rows. `SEED=7 make t F=tests/simulation` plays one again."""

import os
import time
from collections.abc import Callable
from random import SystemRandom

import pytest

from tests.simulation.history import play
from tests.simulation.many import Tally, play_all
from tests.simulation.stage import Stage

FEW = 2  # in every run
PROCESSES = 2
_TELL_AFTER = 100  # histories


def seeds() -> list[int]:
    return [int(os.environ["SEED"])] if "SEED" in os.environ else list(range(FEW))


@pytest.mark.parametrize("seed", seeds())
def test_a_history_ends_as_promised(stage: Stage, seed: int) -> None:
    play(stage, seed=seed)


def test_a_seed_plays_the_same_history_on_any_stage_and_after_any_other(
    stage: Stage, new_empty_database_url: Callable[[], str]
) -> None:
    play(stage, seed=5)
    later = play(stage, seed=4)
    with Stage(new_empty_database_url()) as another:
        assert play(another, seed=4) == later


@pytest.mark.chaos
@pytest.mark.timeout(4 * 3600)
def test_thousands_of_histories_end_as_promised(new_empty_database_url: Callable[[], str]) -> None:
    """HISTORIES of them, from FIRST_SEED on; without one, others each time."""
    count = int(os.environ.get("HISTORIES", "1000"))
    first = int(os.environ.get("FIRST_SEED") or SystemRandom().randrange(10**9))
    print(f"\n{count:,} histories: HISTORIES={count} FIRST_SEED={first}")
    started = time.monotonic()
    tally = Tally()
    for tally in play_all(
        range(first, first + count), database_urls=[new_empty_database_url() for _ in range(PROCESSES)]
    ):
        if tally.played % _TELL_AFTER == 0 or tally.played == count:
            print(f"{tally.played:,} in {time.monotonic() - started:.0f} s, {len(tally.failed)} failed", flush=True)
    print(", ".join(f"{number:,} {what}" for what, number in sorted(tally.made_of.items())))
    for seed, failure in tally.failed.items():
        print(f"\nseed {seed}\n{failure}")
    assert not tally.failed, f"`SEED=... make t F=tests/simulation` plays one of these again: {sorted(tally.failed)}"
    assert tally.played == count
