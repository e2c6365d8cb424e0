"""The supervisor over real child processes."""

import os
import signal
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.waiting import PATIENCE_SECONDS
from tunesmith.local.embedded.errors import ServerFailed
from tunesmith.local.embedded.process import Command, alive, wait_until
from tunesmith.local.up import logs, supervisor
from tunesmith.local.up.signals import StopRequested, StopSignals
from tunesmith.local.up.supervisor import Service, Supervisor

WRITES_ITS_END = """
    import signal, sys, time
    def end(*_):
        with open(sys.argv[2], "a") as order:
            order.write(sys.argv[1] + "\\n")
        sys.exit(0)
    signal.signal(signal.SIGTERM, end)
    open(sys.argv[3], "w").close()
    while True:
        time.sleep(60)
"""
IGNORES_SIGTERM = """
    import signal, sys, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    open(sys.argv[3], "w").close()
    while True:
        time.sleep(60)
"""


class Bench:
    """A supervisor, what it told, and services made of a few lines of Python."""

    def __init__(self, folder: Path, signals: StopSignals) -> None:
        self.folder = folder
        self.signals = signals
        self.told: list[str] = []
        self.supervisor = Supervisor(signals=signals, tell=self.told.append)
        self.order = folder / "order"

    def service(self, name: str, script: str = WRITES_ITS_END, *, grace_seconds: float = 10.0) -> Service:
        ready = self.folder / f"{name}.ready"
        argv = (sys.executable, "-c", textwrap.dedent(script), name, str(self.order), str(ready))
        return Service(
            name=name,
            command=lambda: Command(argv=argv, environment=dict(os.environ)),
            log=self.folder / f"{name}.log",
            ready=lambda _: ready.exists(),
            before_start=lambda: ready.unlink(missing_ok=True),
            grace_seconds=grace_seconds,
        )

    def start(self, *services: Service) -> None:
        for service in services:
            self.supervisor.start(service)
        self.supervisor.wait_ready(*(service.name for service in services), timeout_seconds=PATIENCE_SECONDS)

    def turn_until(self, condition: object) -> bool:
        def turned() -> bool:
            self.supervisor.tick()
            return bool(condition())  # type: ignore[operator]

        return wait_until(turned, timeout_seconds=PATIENCE_SECONDS)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with StopSignals() as signals:
        made = Bench(tmp_path, signals)
        yield made
        made.supervisor.stop_all()


def test_children_stop_in_the_reverse_order_of_their_start(bench: Bench) -> None:
    bench.start(bench.service("first"), bench.service("second"), bench.service("third"))
    bench.supervisor.stop_all()
    assert bench.order.read_text().split() == ["third", "second", "first"]


def test_a_killed_child_is_started_again(bench: Bench) -> None:
    bench.start(bench.service("child"))
    first = bench.supervisor.pid("child")
    assert first is not None
    os.kill(first, signal.SIGKILL)
    assert bench.turn_until(lambda: bench.supervisor.pid("child") not in (None, first))
    assert any("child was killed by SIGKILL" in line for line in bench.told)


def test_a_child_that_fails_at_its_first_start_says_why(bench: Bench) -> None:
    broken = bench.service("broken", "raise SystemExit('the reason is here')")
    with pytest.raises(ServerFailed, match="the reason is here"):
        bench.start(broken)


def test_a_crash_loop_shows_the_end_of_the_log_and_goes_on(bench: Bench) -> None:
    flaky = bench.service("flaky")
    bench.start(flaky)
    bench.supervisor._children[0].early_deaths = 5  # the sixth early death, without waiting for five
    flaky.log.write_text("out of luck\n")
    os.kill(bench.supervisor.pid("flaky") or 0, signal.SIGKILL)
    assert bench.turn_until(lambda: any("out of luck" in line for line in bench.told))
    assert any("in 30.0 s" in line for line in bench.told)


def test_a_stop_while_starting_is_heard(bench: Bench) -> None:
    never_ready = bench.service("slow", "import time; time.sleep(60)")
    bench.supervisor.start(never_ready)
    os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(StopRequested):
        bench.supervisor.wait_ready("slow", timeout_seconds=PATIENCE_SECONDS)


def test_a_child_that_does_not_stop_is_killed_after_its_grace(bench: Bench) -> None:
    bench.start(bench.service("stubborn", IGNORES_SIGTERM, grace_seconds=0.3))
    pid = bench.supervisor.pid("stubborn")
    bench.supervisor.stop_all()
    assert pid is not None
    assert not alive(pid)
    assert any("killing it" in line for line in bench.told)


def test_a_second_request_to_stop_cuts_the_grace_short(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "_HURRY_SECONDS", 0.3)
    bench.start(bench.service("draining", IGNORES_SIGTERM, grace_seconds=PATIENCE_SECONDS))
    os.kill(os.getpid(), signal.SIGINT)
    second_request = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    begun = time.monotonic()
    second_request.start()
    bench.supervisor.stop_all()
    second_request.join()
    assert 0.5 < time.monotonic() - begun < 60


def test_a_log_keeps_its_older_versions_and_has_a_bound(tmp_path: Path) -> None:
    log = tmp_path / "api.log"
    for number in range(6):
        log.write_text(f"start {number}")
        logs.rotate(log)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["api.log.1", "api.log.2", "api.log.3"]
    assert (tmp_path / "api.log.1").read_text() == "start 5"
    with log.open("ab") as writer:
        writer.write(b"x" * 2000)
        writer.flush()
        assert logs.bound(log, max_bytes=1000)
        writer.write(b"after")
        writer.flush()
    assert log.read_bytes() == b"after"
