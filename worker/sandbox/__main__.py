"""Run a command in a sandbox, or say which kind of sandbox this machine allows.

python -m tunesmith.worker.sandbox SANDBOX COMMAND...
python -m tunesmith.worker.sandbox
"""

import json
import os
import sys
from dataclasses import asdict

from tunesmith.worker.sandbox.definition import Sandbox
from tunesmith.worker.sandbox.enter import EXIT_CANNOT_SANDBOX, enter


def main(arguments: list[str]) -> int:
    """Returns only where there is no command, or it cannot be run."""
    if not arguments:
        from tunesmith.worker.sandbox.choice import best  # noqa: PLC0415 - not on a trainer's way

        print(json.dumps(asdict(best()) | {"text": best().text}))
        return 0
    try:
        enter(Sandbox.loaded(arguments[0]))
        os.execvpe(arguments[1], arguments[1:], os.environ)  # noqa: S606 - an argument list
    except OSError as error:
        print(f"The trainer could not be sandboxed: {error}", file=sys.stderr)
        return EXIT_CANNOT_SANDBOX


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
