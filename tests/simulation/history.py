"""One history: a seed decides who does what next and what goes wrong, then everything heals and must come to rest."""

import asyncio
from collections import Counter
from collections.abc import Coroutine
from random import Random
from typing import Any, NamedTuple

from tests.simulation.auditor import Auditor
from tests.simulation.stage import LEASE_SECONDS, MOMENT_SECONDS, Stage
from tests.simulation.turns import Act
from tests.simulation.users import Users
from tests.simulation.workers import Worker
from tests.simulation.world import World
from tunesmith.tuning.state import JobState

TURNS = 400
JOBS = 3
WORKERS = 3
KEEPERS = 2
_ACTS_UNDER_WAY = 5
_TURNS_OF_A_MOMENT = 40
_LONGEST_REST_MOMENTS = 60
_LONGEST_SECONDS = 600.0  # of a real clock: one that takes longer has come to a stand


class History:
    """Everybody in it, and whose acts are under way. Only `random` decides."""

    def __init__(self, world: World, auditor: Auditor, *, random: Random, training_file: str) -> None:
        self._world = world
        self._auditor = auditor
        self._random = random
        self._users = Users(world, training_file=training_file)
        self._workers = [Worker(world, f"worker-{number}") for number in range(WORKERS)]
        self._keepers = [world.keeper() for _ in range(KEEPERS)]
        self._acts: list[Act] = []

    async def disturb(self) -> None:
        """Turns of everybody, with faults between them: of each kind none, some or many, so that none hides another."""
        life = {
            self._go_on: 120,
            self._work: 50,
            self._create: 4,
            self._keep: 3,
            self._wake: 8,
            self._deliver_late: 4,
            self._tell_news: 8,
            self._pass_time: 9,
        }
        faults = {
            self._change_minds: 2,
            self._silence: 3,
            self._kill: 1,
            self._halt_the_api: 1,
            self._set_the_clock: 1,
        }
        chances = life | {fault: weight * self._random.choice((0, 1, 3)) for fault, weight in faults.items()}
        for _ in range(TURNS):
            (what,) = self._random.choices(list(chances), weights=list(chances.values()))
            await what()

    async def heal(self) -> None:
        """Nothing goes wrong any more, but whoever has gone for good; jobs are resumed, and all ends by itself."""
        self._world.is_calm = self._world.broker.is_calm = True
        self._world.served_from_seconds = 0.0
        gone = self._workers.pop()
        gone.die()
        self._note(f"{gone.name} has gone")
        for worker in self._workers:
            worker.silent_until_seconds = 0.0
        for _ in range(_LONGEST_REST_MOMENTS):
            unfinished = self._auditor.unfinished()
            if not unfinished and not self._users.wait_for_an_answer:
                return await self._settle()
            paused = [job_id for job_id, state in unfinished.items() if state == JobState.PAUSED]
            await self._rest_for_a_moment(paused)
        raise AssertionError(f"no rest: {self._auditor.unfinished()}")

    def audit(self) -> None:
        self._auditor.audit(self._users.promises)

    async def drop(self) -> None:
        """What is under way when a history breaks off."""
        for act in self._acts:
            await act.drop()

    async def _rest_for_a_moment(self, paused: list[str]) -> None:
        await self._pass_time()
        await self._keep()
        for job_id in paused:
            self._begin("resume", self._users.resume(job_id))
        for _ in range(_TURNS_OF_A_MOMENT):
            await self._create()
            await self._deliver_late()
            await self._tell_news()
            await self._wake()
            await self._work()
            await self._go_on()

    async def _settle(self) -> None:
        """What is still on its way arrives after the end."""
        while self._acts or self._world.delayed:
            await self._deliver_late()
            await self._go_on()

    def _begin(self, name: str, work: Coroutine[Any, Any, object]) -> None:
        if len(self._acts) >= _ACTS_UNDER_WAY:
            work.close()
            return
        self._note(name)
        self._acts.append(Act(name, work))

    async def _go_on(self) -> None:
        if not self._acts:
            return
        act = self._random.choice(self._acts)
        self._note(f"... {act.name}")
        self._world.tick()
        await act.go_on()
        self._auditor.look()
        self._acts = [each for each in self._acts if not each.is_over]

    async def _work(self) -> None:
        """One worker does what is next for it; it does one thing at a time."""
        busy = {act.name for act in self._acts}
        worker = self._random.choice(self._workers)
        if worker.has_something_to_do and worker.incarnation not in busy:
            self._begin(worker.incarnation, worker.act())

    async def _create(self) -> None:
        if self._users.wanted < JOBS:
            self._users.want()
        if self._users.wait_for_an_answer:
            self._begin("create", self._users.create())

    async def _change_minds(self) -> None:
        self._begin("change of mind", self._users.change_their_mind())

    async def _keep(self) -> None:
        number = self._random.randrange(KEEPERS)
        if all(act.name != f"keeper-{number}" for act in self._acts):
            self._begin(f"keeper-{number}", self._keepers[number].sweep())

    async def _tell_news(self) -> None:
        """Or not: what dies with the API is left to the keeper."""
        if not self._world.has_news or any(act.name == "news" for act in self._acts):
            return
        self._world.has_news = False
        if self._world.is_calm or self._random.random() < 0.8:
            self._begin("news", self._world.tell_news())

    async def _wake(self) -> None:
        if self._world.broker.waiting:
            self._world.broker.take()
            self._random.choice(self._workers).is_woken = True

    async def _deliver_late(self) -> None:
        delayed = self._world.delayed
        if delayed:
            request = delayed.pop(self._random.randrange(len(delayed)))
            self._begin("late message", self._world.deliver(request))

    async def _pass_time(self) -> None:
        await self._world.pass_time()
        self._note(f"it is {self._world.elapsed_seconds:.0f} s")

    async def _silence(self) -> None:
        worker = self._random.choice(self._workers)
        seconds = self._random.uniform(0.5, 2.5) * LEASE_SECONDS
        worker.silent_until_seconds = self._world.elapsed_seconds + seconds
        self._note(f"{worker.name} falls silent for {seconds:.0f} s")

    async def _kill(self) -> None:
        worker = self._random.choice(self._workers)
        worker.die()
        self._note(f"{worker.name} is killed")

    async def _halt_the_api(self) -> None:
        seconds = self._random.uniform(0, 3) * MOMENT_SECONDS
        self._world.served_from_seconds = self._world.elapsed_seconds + seconds
        self._note(f"the API does not answer for {seconds:.0f} s")

    async def _set_the_clock(self) -> None:
        seconds = self._random.uniform(-1, 1) * LEASE_SECONDS
        self._world.set_database_clock(ahead_seconds=seconds)
        self._note(f"the clock of the database goes {seconds:+.0f} s")

    def _note(self, line: str) -> None:
        self._world.note(line)


class Played(NamedTuple):
    """A history that kept every promise: what happened in it line by line, and what it was made of."""

    lines: list[str]
    made_of: Counter[str]


def play(stage: Stage, *, seed: int) -> Played:
    """The history of a seed, and its audit.

    Raises:
        AssertionError: a promise was broken; with the last lines, and how to play the same again.
    """
    return stage.run(_play(stage, seed=seed))


async def _play(stage: Stage, *, seed: int) -> Played:
    await stage.clear()
    random = Random(seed)
    world, auditor = World(stage, random=random), Auditor(stage.clock)
    history = History(world, auditor, random=random, training_file=stage.training_file)
    try:
        async with asyncio.timeout(_LONGEST_SECONDS):
            await history.disturb()
            await history.heal()
        history.audit()
    except Exception as error:
        last = "\n".join(world.lines[-60:])
        what = f"{type(error).__name__}: {error}"
        raise AssertionError(f"{last}\n{what}\n`SEED={seed} make t F=tests/simulation` plays it again.") from error
    finally:
        await history.drop()
    for line in auditor.told():
        world.note(line)
    return Played(world.lines, auditor.count())
