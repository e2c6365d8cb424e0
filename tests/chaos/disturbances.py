"""What can happen to a cluster, each for a while. Which, when and for how long, a seed decides."""

import contextlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import psutil
import redis

from tests.chaos.cluster import BOTH, Cluster
from tests.chaos.test_random_kills import may_be_killed
from tests.stack.worker import trainers_below

Happening = Callable[["Disturber"], AbstractContextManager[None]]


class Disturber:
    """Makes one thing happen after another; `counts` says what did."""

    def __init__(self, cluster: Cluster, *, seed: int) -> None:
        self.cluster = cluster
        self.random = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.of_trainers: Counter[str] = Counter()

    def disturb(self) -> None:
        """One disturbance from its begin to its end, and a pause; what it killed is begun again."""
        (name,) = self.random.choices(list(HAPPENINGS), weights=[weight for weight, _, _ in HAPPENINGS.values()])
        _, longest_seconds, happening = HAPPENINGS[name]
        self.counts[name] += 1
        with happening(self):
            time.sleep(self.random.uniform(0.2, longest_seconds))
        self.cluster.revive()
        time.sleep(self.random.uniform(0, 3))

    def either(self) -> int:
        """The number of one of the two."""
        return self.random.choice(BOTH)


@contextlib.contextmanager
def _kill_api(disturber: Disturber) -> Iterator[None]:
    disturber.cluster.apis[disturber.either()].kill()
    yield


@contextlib.contextmanager
def _kill_keeper(disturber: Disturber) -> Iterator[None]:
    disturber.cluster.keepers[disturber.either()].kill()
    yield


@contextlib.contextmanager
def _kill_postgres(disturber: Disturber) -> Iterator[None]:
    disturber.cluster.kill_postgres()
    yield


@contextlib.contextmanager
def _kill_valkey(disturber: Disturber) -> Iterator[None]:
    disturber.cluster.kill_valkey()
    yield


@contextlib.contextmanager
def _flush_valkey(disturber: Disturber) -> Iterator[None]:
    flush(disturber.cluster)
    yield


@contextlib.contextmanager
def _kill_worker(disturber: Disturber) -> Iterator[None]:
    disturber.cluster.workers[disturber.either()].kill()
    yield


@contextlib.contextmanager
def _kill_pool(disturber: Disturber) -> Iterator[None]:
    pool = disturber.cluster.pool_of(disturber.either())
    if pool is not None:
        with contextlib.suppress(psutil.Error):
            pool.kill()
    yield


@contextlib.contextmanager
def _kill_trainer(disturber: Disturber) -> Iterator[None]:
    """But not so often that its job is given up, by design."""
    for trainer in trainers_below(disturber.cluster.root)[:1]:
        if may_be_killed(trainer.pid, disturber.of_trainers):
            with contextlib.suppress(ProcessLookupError):
                os.kill(trainer.pid, signal.SIGKILL)
    yield


@contextlib.contextmanager
def _drain_worker(disturber: Disturber) -> Iterator[None]:
    disturber.cluster.workers[disturber.either()].process.terminate()
    yield


@contextlib.contextmanager
def _freeze_api(disturber: Disturber) -> Iterator[None]:
    api = disturber.cluster.apis[disturber.either()]
    api.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        api.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def _freeze_worker(disturber: Disturber) -> Iterator[None]:
    """As when a virtual machine is paused, for longer than a lease at times."""
    worker = disturber.cluster.workers[disturber.either()].process
    frozen = freeze(worker.pid)
    try:
        yield
    finally:
        thaw(frozen)


@contextlib.contextmanager
def _cut(disturber: Disturber) -> Iterator[None]:
    disturber.cluster.proxies[disturber.either()].cut()
    yield


@contextlib.contextmanager
def _reset(disturber: Disturber) -> Iterator[None]:
    disturber.cluster.proxies[disturber.either()].reset()
    yield


@contextlib.contextmanager
def _delay(disturber: Disturber) -> Iterator[None]:
    faults = disturber.cluster.proxies[disturber.either()].faults
    faults.delay_seconds = disturber.random.uniform(0.05, 1.5)
    yield
    faults.delay_seconds = 0.0


@contextlib.contextmanager
def _swallow_requests(disturber: Disturber) -> Iterator[None]:
    """A request that never arrives; afterwards the connections are of no use."""
    proxy = disturber.cluster.proxies[disturber.either()]
    proxy.faults.swallow_requests = True
    yield
    proxy.faults.swallow_requests = False
    proxy.reset()


@contextlib.contextmanager
def _swallow_answers(disturber: Disturber) -> Iterator[None]:
    proxy = disturber.cluster.proxies[disturber.either()]
    proxy.faults.swallow_answers = True
    yield
    proxy.faults.swallow_answers = False
    proxy.reset()


@contextlib.contextmanager
def _refuse(disturber: Disturber) -> Iterator[None]:
    proxy = disturber.cluster.proxies[disturber.either()]
    proxy.faults.refuse = True
    proxy.cut()
    yield
    proxy.faults.refuse = False


def flush(cluster: Cluster) -> None:
    """FLUSHALL: Valkey forgets everything, but lives."""
    valkey = cluster.valkey
    with redis.Redis(unix_socket_path=str(valkey.socket_path), password=valkey.password) as client:
        assert client.flushall()


def freeze(pid: int) -> list[psutil.Process]:
    """SIGSTOP to a process and all below it; returns whom it was sent to."""
    found: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error):
        top = psutil.Process(pid)
        found = [top, *top.children(recursive=True)]
    for process in found:
        _signal(process, signal.SIGSTOP)
    return found


def thaw(frozen: list[psutil.Process]) -> None:
    """Let them go on, those that are still there."""
    for process in frozen:
        _signal(process, signal.SIGCONT)


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    with contextlib.suppress(psutil.Error):
        process.send_signal(number)


# What, how often in comparison, and for how many seconds at most. A new worker takes ten seconds of a core to be ready.
HAPPENINGS: dict[str, tuple[int, float, Happening]] = {
    "kill an API": (3, 4, _kill_api),
    "kill a keeper": (2, 4, _kill_keeper),
    "kill PostgreSQL": (3, 4, _kill_postgres),
    "kill Valkey": (3, 4, _kill_valkey),
    "flush Valkey": (3, 1, _flush_valkey),
    "kill a worker": (1, 2, _kill_worker),
    "kill a pool": (1, 2, _kill_pool),
    "kill a trainer": (3, 1, _kill_trainer),
    "drain a worker": (1, 8, _drain_worker),
    "freeze an API": (3, 6, _freeze_api),
    "freeze a worker": (2, 20, _freeze_worker),
    "cut connections": (3, 1, _cut),
    "reset connections": (3, 1, _reset),
    "delay": (3, 5, _delay),
    "swallow requests": (3, 5, _swallow_requests),
    "swallow answers": (4, 5, _swallow_answers),
    "refuse connections": (3, 5, _refuse),
}
