"""A worker process, whose pool and trainers are found through the process table, as an operator would."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil

from tests.stack.read_only_disk import ReadOnlyLater
from tests.waiting import eventually
from tunesmith.tuning.codes import RUN_DIRECTORY_VARIABLE


class Worker:
    """As on a machine of its own: with a folder, a log, and everything below it."""

    def __init__(
        self,
        name: str,
        *,
        work_dir: Path,
        log: Path,
        environment: Mapping[str, str],
        verb: str = "run",
        disk: ReadOnlyLater | None = None,
    ) -> None:
        self.work_dir = work_dir
        self.log = log
        command = [str(Path(sys.executable).with_name("tunesmith-worker")), verb, "--name", name]
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                disk.around(command) if disk else command,
                env={**environment, "TUNESMITH_WORK_DIR": str(work_dir), "TUNESMITH_GRACE_SECONDS": "30"},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def trainers(self) -> list[psutil.Process]:
        """Every living process of a run below this worker's folder."""
        return trainers_below(self.work_dir)

    def said(self, text: str) -> bool:
        """Whether its log has a text."""
        return text in self.log.read_text(errors="replace")

    def freeze_trainer(self, job_id: str, *, when: Callable[[Path], bool]) -> None:
        """Stop the clock of the job's trainer as soon as its run directory says so: fast and slow machines agree."""
        runs = self.work_dir / "runs" / job_id
        eventually(lambda: any(when(run) for run in runs.glob("*")), pause_seconds=0.01, what="that moment of the run")
        for trainer in self.trainers():
            trainer.suspend()

    def thaw_trainer(self) -> None:
        """Let it go on."""
        for trainer in self.trainers():
            trainer.resume()

    def freeze(self) -> list[int]:
        """SIGSTOP to every process of the machine, as when a virtual one is paused; returns their pids."""
        pids = [self.process.pid]
        pids += [child.pid for child in psutil.Process(self.process.pid).children(recursive=True)]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        return pids

    def thaw(self, pids: list[int]) -> None:
        """SIGCONT to what was frozen."""
        for pid in pids:
            os.kill(pid, signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL to the main process alone, frozen or not: what it leaves behind must end by itself."""
        self.process.kill()
        self.process.wait()

    def terminate(self) -> int:
        """SIGTERM; returns the exit code."""
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(timeout=60)


def trainers_below(folder: Path) -> list[psutil.Process]:
    """Every living process of a run in a folder, by the mark in its environment."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            mark = process.environ().get(RUN_DIRECTORY_VARIABLE, "")
            if mark.startswith(f"{folder}/") and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return sorted(found, key=lambda process: process.pid)
