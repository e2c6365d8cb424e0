"""`tunesmith-service` and `tunesmith-worker` where only the client may be installed: then the missing extra is named.

Neither is imported by name here: this package stands beside them.
"""

import sys
from importlib import import_module


def service() -> None:
    """Entry point of the control plane."""
    _run("tunesmith.service.cli", extra="service")


def worker() -> None:
    """Entry point of the worker."""
    _run("tunesmith.worker.cli", extra="worker")


def _run(module: str, *, extra: str) -> None:
    try:
        import_module(module).main()  # which imports what its command needs
    except ModuleNotFoundError as error:
        if (error.name or "tunesmith").partition(".")[0] == "tunesmith":
            raise
        print(f"error: {error.name} is not installed.\n  hint: pip install 'tunesmith[{extra}]'", file=sys.stderr)
        sys.exit(1)
