"""`python -m tunesmith.worker.inference.child PARENT COMMAND...`: becomes the command, and ends with the parent."""

import os
import signal
import sys

from tunesmith.worker.sandbox.kernel import die_with_parent


def main(words: list[str]) -> None:
    """The kernel forgets nothing of this when another program takes the place of this one."""
    parent, *command = words
    die_with_parent(signal.SIGKILL)
    if os.getppid() != int(parent):
        sys.exit("The gateway ended before its engine began.")
    os.execvp(command[0], command)  # noqa: S606 - the command line is an argument list that the gateway built


if __name__ == "__main__":
    main(sys.argv[1:])
