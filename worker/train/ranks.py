"""One run in several processes, by torchrun, on one host or more.

    python -m tunesmith.worker.train.ranks RUN_DIR --processes N

Exit codes are those of the trainer itself. When a process dies torchrun ends the others; result.json then names
the one that died first, with what it said about itself or the signal that ended it.

On several hosts start the same on each, with the run directory on a shared file system and, for two hosts of N
processes: --hosts 2 --rendezvous FIRST_HOST:PORT --local-address ADDRESS.
"""

import argparse
import shutil
import signal
import socket
import sys
import time
from pathlib import Path

from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import Failure
from tunesmith.worker.exits import crashed, killed
from tunesmith.worker.run_directory import EXIT_FAILED, EXIT_STOPPED, RunDirectory, append_line
from tunesmith.worker.train import environment, lifeline  # noqa: F401 - before torch

OTHER_HOSTS_SECONDS = 15.0
_HANDLED_BY_TORCHRUN = "SIGINT,SIGHUP,SIGQUIT"  # SIGTERM means: stop with a checkpoint


def main(arguments: list[str] | None = None) -> int:
    """Start the processes, wait for their end, and say how it was."""
    options = _options(arguments)
    directory = RunDirectory(options.run_dir.resolve())
    lifeline.watch(directory.request().lifeline_fd)
    signal.signal(signal.SIGTERM, lambda *_: directory.stop.touch())
    shutil.rmtree(directory.ranks, ignore_errors=True)
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        run.run(run.parse_args(torchrun_arguments(options)))
    except ChildFailedError as error:
        exit_codes = {rank: failure.exitcode for rank, failure in error.failures.items()}
        processes = options.hosts * options.processes
        failure = _first_failure(directory, exit_codes, hosts=options.hosts, processes=processes)
        _tell(directory, failure)
        directory.write_failure(failure)
        return EXIT_FAILED
    return 0 if directory.result.exists() else EXIT_STOPPED


def torchrun_arguments(options: argparse.Namespace) -> list[str]:
    """torchrun's own: its c10d rendezvous, in this host alone or at the address of the first."""
    if options.hosts == 1:
        where = ["--standalone"]
    else:
        where = ["--rdzv-backend", "c10d", "--rdzv-endpoint", options.rendezvous, "--rdzv-id", options.run_dir.name]
        where += ["--nnodes", str(options.hosts), "--local-addr", options.local_address or socket.gethostname()]
    each = ["--nproc-per-node", str(options.processes), "--max-restarts", "0"]
    each += ["--signals-to-handle", _HANDLED_BY_TORCHRUN]
    return [*where, *each, "-m", "tunesmith.worker.train", str(options.run_dir.resolve())]


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tunesmith.worker.train.ranks", description=__doc__)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--processes", type=int, required=True, help="on this host; one per GPU")
    parser.add_argument("--hosts", type=int, default=1)
    parser.add_argument("--rendezvous", default="", metavar="HOST:PORT", help="where hosts find each other")
    parser.add_argument("--local-address", default="", help="of this host, as the others reach it")
    options = parser.parse_args(arguments)
    if options.hosts > 1 and not options.rendezvous:
        parser.error("--hosts needs --rendezvous HOST:PORT, the same on every host")
    return options


def _first_failure(directory: RunDirectory, exit_codes: dict[int, int], *, hosts: int, processes: int) -> Failure:
    """Why the run ended. `exit_codes`: of the processes of this host, in the order in which they were found dead."""
    for rank, code in exit_codes.items():
        if rank not in directory.read_rank_failures():
            directory.write_rank_failure(rank, killed(code) if code < 0 else crashed(code), processes=processes)
    deadline = time.monotonic() + (OTHER_HOSTS_SECONDS if hosts > 1 else 0)
    while True:
        known = directory.read_rank_failures()
        order = [*exit_codes, *sorted(set(known) - set(exit_codes))]
        # One that lost the connection to another is not the reason, but may be found dead before the one that is.
        reason = next((known[rank] for rank in order if known[rank].code != ErrorCode.PROCESS_LOST), None)
        if reason is not None or time.monotonic() > deadline:
            return reason or known[order[0]]
        time.sleep(0.1)


def _tell(directory: RunDirectory, failure: Failure) -> None:
    data = {"code": failure.code}
    append_line(directory.events, {"level": "error", "message": failure.message, "data": data})
    print(f"[error] {failure.message}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
