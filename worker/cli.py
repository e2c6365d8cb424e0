"""`tunesmith-worker`: run a worker on this host, let it serve models, or show what it would offer."""

import argparse
import sys

from pydantic import ValidationError

from tunesmith.tuning.errors import TunesmithError
from tunesmith.worker.daemon.machine_constants import stored_constants
from tunesmith.worker.inference.settings import InferenceSettings
from tunesmith.worker.logs import configure_logs
from tunesmith.worker.machine.probe import probe
from tunesmith.worker.machine.slots import hardware_of_slot
from tunesmith.worker.settings import ProbeSettings, WorkerSettings
from tunesmith.worker.work_directory import WorkDirectory

EXIT_REFUSED = 1
EXIT_USAGE = 2


def main(arguments: list[str] | None = None) -> None:
    """Entry point."""
    parsed = _parser().parse_args(arguments)
    try:
        verbs = {"run": _run, "serve": _serve, "probe": _probe}
        sys.exit(verbs[parsed.command](parsed))
    except ValidationError as error:
        sys.exit(_explain_settings(error))
    except (TunesmithError, ValueError) as error:
        hint = getattr(error, "hint", None)
        print(f"tunesmith-worker: {error}{' ' + hint if hint else ''}", file=sys.stderr)
        sys.exit(EXIT_REFUSED)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tunesmith-worker", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="register at the service and work until SIGTERM")
    run.add_argument("--name", help="how the worker is shown; the host's name unless given")
    serve = commands.add_parser("serve", help="answer for models, while nobody trains here, until SIGTERM")
    serve.add_argument("--name", help="how the worker is shown; the host's name unless given")
    commands.add_parser("probe", help="print the hardware of one slot as JSON")
    return parser


def _run(parsed: argparse.Namespace) -> int:
    settings = WorkerSettings()
    configure_logs(settings.log_format)
    from tunesmith.worker.daemon.daemon import WorkerDaemon  # noqa: PLC0415 - Celery is not needed to probe

    return WorkerDaemon(settings, name=parsed.name).run()


def _serve(parsed: argparse.Namespace) -> int:
    settings = InferenceSettings()
    configure_logs(settings.log_format)
    from tunesmith.worker.inference.serve import serve  # noqa: PLC0415 - no web server is needed to train

    return serve(settings, name=parsed.name)


def _probe(_parsed: argparse.Namespace) -> int:
    settings = ProbeSettings()
    host = probe(disk=settings.work_dir, cpu_memory_gib=settings.cpu_memory_gib)
    slot = hardware_of_slot(host, index=0, count=settings.slots)
    constants = stored_constants(WorkDirectory(settings.work_dir), slot)
    print(slot.model_copy(update={"constants": constants}).model_dump_json(indent=2))
    return 0


def _explain_settings(error: ValidationError) -> int:
    """One line to a variable that is missing or wrong; never its value, which may be a secret."""
    for problem in error.errors(include_input=False):
        field = str(problem["loc"][0]) if problem["loc"] else "?"
        prefix = "TUNESMITH_INFERENCE_" if error.title == InferenceSettings.__name__ else "TUNESMITH_"
        variable = field if field.isupper() else f"{prefix}{field.upper()}"
        print(f"tunesmith-worker: {variable}: {problem['msg']}", file=sys.stderr)
    return EXIT_USAGE


if __name__ == "__main__":
    main()
