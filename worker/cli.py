"""`tunesmith-worker`: join a service, run a worker here, let it serve models, look at it, or show what it has."""

import argparse
import os
import signal
import sys
from types import FrameType
from typing import NoReturn

from pydantic import ValidationError

from tunesmith.tuning.errors import TunesmithError
from tunesmith.worker.daemon.machine_constants import stored_constants
from tunesmith.worker.inference.settings import InferenceSettings
from tunesmith.worker.joining.doctor import examine, exit_code, text_of, worries
from tunesmith.worker.joining.join import join
from tunesmith.worker.joining.membership import complete, default_work_dir
from tunesmith.worker.logs import configure_logs
from tunesmith.worker.machine.probe import probe
from tunesmith.worker.machine.slots import hardware_of_slot
from tunesmith.worker.settings import ProbeSettings, WorkerSettings
from tunesmith.worker.transport.retry import Unavailable
from tunesmith.worker.work_directory import WorkDirectory

EXIT_REFUSED = 1
EXIT_USAGE = 2


def main(arguments: list[str] | None = None) -> None:
    """Entry point."""
    parsed = _parser().parse_args(arguments)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)  # until there is something to bring to an end, which then has its own
    try:
        sys.exit(_COMMANDS[parsed.command](parsed))
    except ValidationError as error:
        sys.exit(_explain_settings(error))
    except (TunesmithError, Unavailable, ValueError) as error:
        hint = getattr(error, "hint", None)
        print(f"tunesmith-worker: {error}{' ' + hint if hint else ''}", file=sys.stderr)
        sys.exit(EXIT_REFUSED)


def _leave(_number: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tunesmith-worker", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    joining = commands.add_parser("join", help="become a worker of a service, and work until SIGTERM")
    joining.add_argument("url", help="where workers reach the service, as the invitation has it")
    joining.add_argument("--token", required=True, help="the token of the invitation, which is good once")
    joining.add_argument("--name", help="how the worker is shown; the invitation's or the host's name unless given")
    joining.add_argument("--no-run", action="store_true", help="only join; `run` works, now or after each start")
    run = commands.add_parser("run", help="register at the service and work until SIGTERM")
    run.add_argument("--name", help="how the worker is shown; as it joined, or the host's name, unless given")
    serve = commands.add_parser("serve", help="answer for models, while nobody trains here, until SIGTERM")
    serve.add_argument("--name", help="how the worker is shown; as it joined, or the host's name, unless given")
    commands.add_parser("doctor", help="look at service, key, GPUs, libraries, disk and clock")
    commands.add_parser("probe", help="print the hardware of one slot as JSON")
    return parser


def _join(parsed: argparse.Namespace) -> int:
    work_dir = default_work_dir(os.environ)
    membership = join(parsed.url, token=parsed.token, name=parsed.name, work_dir=work_dir)
    _tell(f"{membership.name} has joined {membership.url}; its key lies in {work_dir}, for this user alone")
    if parsed.no_run:
        _tell("work with `tunesmith-worker run`; look at this machine with `tunesmith-worker doctor`")
        return 0
    complete(os.environ)
    for finding in worries(os.environ):
        _tell(text_of([finding]))
    _tell("it works from now on until Ctrl-C; later `tunesmith-worker run` goes on")
    return _run(parsed)


def _run(parsed: argparse.Namespace) -> int:
    membership = complete(os.environ)
    settings = WorkerSettings()
    configure_logs(settings.log_format)
    from tunesmith.worker.daemon.daemon import WorkerDaemon  # noqa: PLC0415 - Celery is not needed to probe

    name = parsed.name or (membership.name if membership is not None else None)
    return WorkerDaemon(settings, name=name).run()


def _serve(parsed: argparse.Namespace) -> int:
    membership = complete(os.environ)
    settings = InferenceSettings()
    configure_logs(settings.log_format)
    from tunesmith.worker.inference.serve import serve  # noqa: PLC0415 - no web server is needed to train

    return serve(settings, name=parsed.name or (membership.name if membership is not None else None))


def _doctor(_parsed: argparse.Namespace) -> int:
    complete(os.environ)
    findings = examine(os.environ)
    print(text_of(findings))
    return exit_code(findings)


def _probe(_parsed: argparse.Namespace) -> int:
    settings = ProbeSettings()
    host = probe(disk=settings.work_dir, cpu_memory_gib=settings.cpu_memory_gib)
    slot = hardware_of_slot(host, index=0, count=settings.slots)
    constants = stored_constants(WorkDirectory(settings.work_dir), slot)
    print(slot.model_copy(update={"constants": constants}).model_dump_json(indent=2))
    return 0


def _tell(text: str) -> None:
    print(f"tunesmith-worker: {text}", file=sys.stderr)


def _explain_settings(error: ValidationError) -> int:
    """One line to a variable that is missing or wrong; never its value, which may be a secret."""
    for problem in error.errors(include_input=False):
        field = str(problem["loc"][0]) if problem["loc"] else "?"
        prefix = "TUNESMITH_INFERENCE_" if error.title == InferenceSettings.__name__ else "TUNESMITH_"
        variable = field if field.isupper() else f"{prefix}{field.upper()}"
        print(f"tunesmith-worker: {variable}: {problem['msg']}", file=sys.stderr)
    return EXIT_USAGE


_COMMANDS = {"join": _join, "run": _run, "serve": _serve, "doctor": _doctor, "probe": _probe}

if __name__ == "__main__":
    main()
