"""How long to wait before a process that died is started again."""

from itertools import pairwise

from tunesmith.local.up.restart import QUICK_TRIES, SLOW_DELAY_SECONDS, decide


def test_the_first_death_is_answered_at_once() -> None:
    restart = decide(lived_seconds=1.0, early_deaths=0)
    assert restart.delay_seconds <= 0.1
    assert not restart.looping


def test_each_early_death_doubles_the_delay() -> None:
    delays = [decide(lived_seconds=0.0, early_deaths=deaths).delay_seconds for deaths in range(QUICK_TRIES)]
    assert all(later == 2 * earlier for earlier, later in pairwise(delays))


def test_a_crash_loop_is_named_and_tried_slowly_for_ever() -> None:
    for deaths in (QUICK_TRIES, QUICK_TRIES + 1000):
        restart = decide(lived_seconds=0.0, early_deaths=deaths)
        assert restart.looping
        assert restart.delay_seconds == SLOW_DELAY_SECONDS
        assert f"{deaths + 1} times" in restart.reason


def test_a_long_life_wipes_the_record() -> None:
    restart = decide(lived_seconds=3600.0, early_deaths=50)
    assert restart.early_deaths == 1
    assert not restart.looping
