"""When to start a process again that died by itself."""

from dataclasses import dataclass

HEALTHY_SECONDS = 30.0  # a process that lived this long was working: its death starts a new count
FIRST_DELAY_SECONDS = 0.1
QUICK_TRIES = 5
SLOW_DELAY_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True)
class Restart:
    """What to do about one death. `early_deaths` goes into the next decision."""

    delay_seconds: float
    early_deaths: int
    looping: bool
    reason: str


def decide(*, lived_seconds: float, early_deaths: int) -> Restart:
    """Soon at first, then twice as late each time; after QUICK_TRIES short lives in a row, slowly but for ever."""
    if lived_seconds >= HEALTHY_SECONDS:
        early_deaths = 0
    early_deaths += 1
    if early_deaths > QUICK_TRIES:
        return Restart(
            delay_seconds=SLOW_DELAY_SECONDS,
            early_deaths=early_deaths,
            looping=True,
            reason=f"it died {early_deaths} times in a row within {HEALTHY_SECONDS:.0f} s of its start",
        )
    return Restart(
        delay_seconds=FIRST_DELAY_SECONDS * 2 ** (early_deaths - 1),
        early_deaths=early_deaths,
        looping=False,
        reason=f"it lived {lived_seconds:.1f} s",
    )
