"""Many histories in several processes, each with a stage of its own."""

import multiprocessing
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from queue import Queue

from tests.simulation.history import play
from tests.simulation.stage import Stage


@dataclass
class Tally:
    """What has been played so far. `failed` is by seed: what was broken, and the lines before it."""

    played: int = 0
    failed: dict[int, str] = field(default_factory=dict)
    made_of: Counter[str] = field(default_factory=Counter)


def play_all(seeds: Sequence[int], *, database_urls: Sequence[str]) -> Iterator[Tally]:
    """The tally after each history. Each database is empty, and one process's own."""
    spawning = multiprocessing.get_context("spawn")
    with spawning.Manager() as manager:
        urls: Queue[str] = manager.Queue()
        for url in database_urls:
            urls.put(url)
        tally = Tally()
        with ProcessPoolExecutor(len(database_urls), spawning, initializer=_set, initargs=(urls,)) as pool:
            try:
                for ended in as_completed([pool.submit(_play, seed) for seed in seeds]):
                    seed, made_of, failure = ended.result()
                    tally.played += 1
                    tally.made_of += made_of
                    if failure is not None:
                        tally.failed[seed] = failure
                    yield tally
            finally:
                pool.shutdown(wait=False, cancel_futures=True)  # Ctrl-C waits for none that has not begun


_stages: list[Stage] = []  # of this process: one


def _set(urls: "Queue[str]") -> None:
    _stages.append(Stage(urls.get()))


def _play(seed: int) -> tuple[int, Counter[str], str | None]:
    try:
        return seed, play(_stages[0], seed=seed).made_of, None
    except AssertionError as failure:
        return seed, Counter(), str(failure)
