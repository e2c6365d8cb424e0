"""Code that a user could get to run in a trainer, started as one: what it tries, it is refused."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.security.conftest import SECRET, Site
from tests.waiting import eventually
from tests.worker.trainer_process.test_warm import LIGHT
from tunesmith.local.embedded.valkey import ValkeyServer
from tunesmith.tuning.plan import Plan
from tunesmith.worker.machine.slots import Slot, Slots
from tunesmith.worker.trainer_process.launcher import Trainer, launch, trainer_environment
from tunesmith.worker.trainer_process.processes import adopt_orphans, bury_orphans, tree
from tunesmith.worker.trainer_process.warm import WarmTrainer

DAEMON = f"unmarked-daemon-of-{os.getpid()}"  # two runs of these tests on one machine do not see each other's
TRY = """
import os, sys
def attempt(act):
    try:
        print('DONE', act())
    except (OSError, ValueError) as error:
        print('REFUSED', type(error).__name__)
"""


def tried(site: Site, *acts: str, **changes: object) -> list[str]:
    """One line for each act: REFUSED, or DONE with what it brought."""
    script = TRY + "\n".join(f"attempt(lambda: {act})" for act in acts)
    said = site.run(script, **changes).strip()
    lines = said.splitlines()
    assert len(lines) == len(acts), said
    return lines


def assert_refused(lines: list[str]) -> None:
    assert all(line.startswith("REFUSED") for line in lines), lines


class TestFiles:
    def test_its_own_run_its_model_and_its_home_can_be_used(self, site: Site) -> None:
        lines = tried(
            site,
            f"open({str(site.model / 'config.json')!r}).read()",
            "open('metrics.jsonl', 'a').write('{}')",
            "open(os.path.expanduser('~/kernel'), 'w').write('x')",
            "__import__('tempfile').mkstemp() and 1",
            "open('/dev/null', 'w').write('x')",
            "__import__('multiprocessing.shared_memory').shared_memory.SharedMemory(create=True, size=64).unlink()",
        )
        assert all(line.startswith("DONE") for line in lines), lines
        assert (site.own.root / "metrics.jsonl").read_text() == "{}"
        assert (site.home / "kernel").read_text() == "x"

    def test_keys_blobs_and_what_belongs_to_other_jobs_cannot_be_read(self, site: Site) -> None:
        others = (site.admin_key, site.blob, site.token_of_others, site.other.root / "data/training.jsonl")
        lines = tried(site, *(f"open({str(path)!r}).read()" for path in (*others, "/etc/shadow")))
        assert_refused(lines)

    def test_folders_of_others_cannot_be_listed(self, site: Site) -> None:
        folders = (site.admin_key.parent, site.other.root, site.work.tokens / "project-other", site.data / "store")
        assert_refused(tried(site, *(f"os.listdir({str(folder)!r})" for folder in folders)))

    def test_nothing_can_be_written_outside_of_the_run(self, site: Site) -> None:
        places = (site.model / "config.json", site.other.root / "x", Path(sys.prefix) / "x", "/etc/x")
        own_tmp = f"open({str(site.data / 'x')!r}, 'w')"  # below /tmp: by namespaces a /tmp of its own
        *lines, _ = tried(site, *(f"open({str(place)!r}, 'w')" for place in places), own_tmp)
        assert_refused(lines)
        assert (site.model / "config.json").read_text() == "{}"
        assert not (site.data / "x").exists()

    def test_a_link_is_no_way_out(self, site: Site) -> None:
        (site.own.root / "way").symlink_to(site.admin_key)
        (site.own.root / "store").symlink_to(site.data / "store")
        assert_refused(tried(site, "open('way').read()", "os.listdir('store')", "open('way', 'w')"))
        assert site.admin_key.read_text() == SECRET

    def test_settings_of_the_host_cannot_be_changed(self, site: Site) -> None:
        lines = tried(
            site,
            "open('/proc/sys/kernel/core_pattern', 'w').write('|/bin/sh')",
            "open('/proc/sysrq-trigger', 'w').write('h')",
            "open('/sys/module/kernel/parameters/panic', 'w').write('1')",
        )
        assert_refused(lines)

    def test_a_file_as_large_as_the_disk_is_refused(self, site: Site) -> None:
        lines = tried(site, "open('huge', 'wb').truncate(1 << 21)", largest_file_bytes=1 << 20)
        assert_refused(lines)
        assert site.sandbox().largest_file_bytes > 1 << 30


class TestProcesses:
    def test_the_environment_of_no_other_process_can_be_read(self, site: Site) -> None:
        act = f"open('/proc/{os.getpid()}/environ', 'rb').read()"
        everybody = "[n for n in os.listdir('/proc') if n.isdigit() and open(f'/proc/{n}/environ', 'rb').read()]"
        assert_refused(tried(site, act)) if site.kind == "landlock" else None
        said = tried(site, everybody)[0]
        own = ["1", "2"]  # in its own namespace: the process that waits for it, and itself
        assert said.startswith("REFUSED") or said == f"DONE {own}"

    def test_no_other_process_can_be_stopped(self, site: Site) -> None:
        with subprocess.Popen(["sleep", "600"]) as stranger:
            tried(site, f"os.kill({stranger.pid}, 9)", f"os.kill({os.getppid()}, 0)")
            assert stranger.poll() is None
            stranger.kill()

    def test_privileges_are_gone_for_good(self, site: Site) -> None:
        status = site.run("print(open('/proc/self/status').read())")
        facts = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert facts["NoNewPrivs"] == "1"
        assert {facts[name].strip("0") for name in ("CapEff", "CapPrm", "CapInh", "CapAmb")} == {""}
        if site.kind == "namespaces":
            assert facts["CapBnd"].strip("0") == ""
            ended = "__import__('subprocess').run(['unshare', '--user', 'true'], capture_output=True).returncode"
            assert tried(site, ended) == ["DONE 1"]

    def test_a_daemon_without_a_mark_in_a_session_of_its_own_dies_with_the_run(self, site: Site) -> None:
        """With an empty environment and no open file, all that ties it to its run is that it cannot leave."""
        trainer = site.begin(
            "import os, subprocess, sys, time\n"
            "alone = 'import os, time; os.closerange(0, 64); time.sleep(600)'\n"
            "if os.fork() == 0:\n"
            "    os.setsid()\n"
            "    if os.fork() == 0: os.execve(sys.executable, ['" + DAEMON + "', '-c', alone], {})\n"
            "    os._exit(0)\n"
            "os.wait()\nopen('ready', 'w').close()\ntime.sleep(600)"
        )
        eventually((site.own.root / "ready").exists)
        eventually(daemons)
        assert trainer.end() == -9
        eventually(lambda: not daemons())
        assert tree(trainer.process.pid, run_dir=site.own.root) == []

    def test_one_that_a_finished_run_leaves_behind_is_ended_too(self, site: Site) -> None:
        site.run(
            "import os, sys\n"
            "if os.fork() == 0:\n"
            "    os.setsid()\n"
            "    os.execve(sys.executable, ['" + DAEMON + "', '-c', 'import time; time.sleep(600)'], {})\n"
        )
        assert not daemons()

    def test_everything_ends_with_the_process_that_the_worker_knows(self, site: Site) -> None:
        trainer = site.begin("import time; open('ready', 'w').close(); time.sleep(600)")
        eventually((site.own.root / "ready").exists)
        trainer.process.kill()  # type: ignore[attr-defined]
        eventually(lambda: not tree(None, run_dir=site.own.root))

    def test_a_slot_stays_taken_while_a_trainer_behind_the_sandbox_lives(self, site: Site) -> None:
        """The lock must reach the trainer itself: it is free again when the last of the tree is dead, not before."""
        slots = Slots(site.work.slots, (("cpu-0",),))
        slot = slots.acquire()
        assert slot is not None
        trainer = site.begin("import time; open('ready', 'w').close(); time.sleep(600)", slot=slot)
        slot.release()
        eventually((site.own.root / "ready").exists)
        assert slots.acquire() is None
        trainer.end()
        freed = slots.acquire(wait_seconds=10)
        assert freed is not None
        freed.release()


class TestNetwork:
    def test_no_server_of_this_host_can_be_reached(self, site: Site) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket(socket.AF_UNIX) as abstract:
            abstract.bind("\0tunesmith-probe")
            abstract.listen()
            port = listener.getsockname()[1]
            lines = tried(
                site,
                f"__import__('socket').create_connection(('127.0.0.1', {port}), 2)",
                "__import__('socket').socket(1).connect('\\0tunesmith-probe')",
                "__import__('socket').create_server(('127.0.0.1', 0))" if site.kind == "landlock" else "1 / int('')",
            )
        assert_refused(lines)

    def test_the_queue_cannot_be_read_or_written(self, site: Site) -> None:
        """By namespaces its socket is not there; by Landlock it can be opened, and then it wants the password."""
        with ValkeyServer(site.data / "valkey", log=site.data / "valkey.log") as server:
            talk = (
                "import socket\n"
                "s = socket.socket(socket.AF_UNIX)\n"
                "try:\n"
                f"    s.connect({str(server.socket_path)!r})\n"
                "    s.sendall(b'LPUSH queue garbage\\r\\n'); print(s.recv(200))\n"
                "except OSError as error:\n"
                "    print('REFUSED')\n"
            )
            said = site.run(talk)
        assert "REFUSED" in said or "NOAUTH" in said, said

    @pytest.mark.parametrize("talks", [True])
    def test_processes_of_one_run_reach_each_other(self, site: Site, talks: bool) -> None:
        script = (
            "import socket\n"
            "with socket.create_server(('127.0.0.1', 0)) as listener:\n"
            "    with socket.create_connection((socket.gethostname(), listener.getsockname()[1]), 5): print('met')\n"
            if site.kind == "namespaces"
            else "import socket\nwith socket.create_server(('127.0.0.1', 0)) as listener:\n"
            "    with socket.create_connection(('127.0.0.1', listener.getsockname()[1]), 5): print('met')\n"
        )
        assert site.run(script, talks=talks) == "met\n"


def daemons() -> list[int]:
    """Processes of the name that the probes above give to theirs, in any namespace."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cmdline()[:1] == [DAEMON] and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def test_the_exit_code_of_a_sandboxd_trainer_is_its_own(site: Site) -> None:
    for script, code in (
        ("raise SystemExit(75)", 75),
        ("1 / 0", 1),
        ("import os; os.kill(os.getpid(), 15)", -15),
        ("import os; os.kill(os.getpid(), 11)", -11),
        ("import ctypes; ctypes.string_at(0)", -11),
    ):
        trainer = site.begin(script)
        eventually(lambda trainer=trainer: trainer.exit_code is not None)
        assert trainer.end() == code, script


def test_a_polite_signal_reaches_the_trainer_and_not_those_who_wait_for_it(site: Site) -> None:
    trainer = site.begin(
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))\n"
        "open('ready', 'w').close()\ntime.sleep(600)"
    )
    eventually((site.own.root / "ready").exists)
    assert trainer.stop(grace_seconds=0.1, terminate_seconds=10, check=lambda: False) == 75


class TestForksOfTheWarmProcess:
    """They go into the sandbox themselves, before they do anything for a job."""

    @pytest.fixture
    def fork(self, site: Site) -> Iterator[Callable[[str], Trainer]]:
        environment = trainer_environment(os.environ, run_dir=Path("/nowhere"), cores=1, devices=())
        warm = WarmTrainer(environment=environment, command=LIGHT)
        warm.keep()

        def fork(script: str) -> Trainer:
            (site.own.root / "job.py").write_text(script)
            trainer = launch(
                site.own,
                Plan.model_construct(world_size=1),
                slot=Slot(0),
                cores=1,
                devices=(),
                records=site.work.trainers,
                log_cap_bytes=64 * 1024,
                sandbox=site.sandbox(),
                warm=warm,
            )
            assert trainer.start == "warm"
            site.started.append(trainer)
            return trainer

        yield fork
        warm.close()
        bury_orphans(but=())
        adopt_orphans(adopt=False)

    def test_they_see_no_more_than_others_and_say_so_in_their_environment(
        self, site: Site, fork: Callable[[str], Trainer]
    ) -> None:
        trainer = fork(
            TRY
            + "".join(f"attempt(lambda: open({str(path)!r}).read())\n" for path in (site.admin_key, site.blob))
            + f"attempt(lambda: open('/proc/{os.getpid()}/environ').read())\n"
            "shown = open('/proc/self/environ').read().split(chr(0))\n"
            "print(os.environ['HOME'], shown.count('HOME=' + os.environ['HOME']))\n"
            "raise SystemExit(75)"
        )
        eventually(lambda: trainer.exit_code is not None)
        assert trainer.end() == 75
        *refused, home = site.own.log.read_text().splitlines()
        assert_refused(refused)
        assert home == f"{site.home} 1"

    def test_their_daemons_die_with_them(self, fork: Callable[[str], Trainer]) -> None:
        trainer = fork(
            "import os, sys, time\n"
            "if os.fork() == 0:\n"
            "    os.setsid()\n"
            "    os.execve(sys.executable, ['" + DAEMON + "', '-c', 'import time; time.sleep(600)'], {})\n"
            "time.sleep(600)"
        )
        eventually(daemons)
        assert trainer.end() == -9
        eventually(lambda: not daemons())


def test_a_sandboxed_trainer_is_the_first_that_the_kernel_ends_when_memory_runs_out(site: Site) -> None:
    assert site.run("print(open('/proc/self/oom_score_adj').read())").split() == ["1000"]
