"""The `tunesmith` command run in this process, as a user's shell would run it in its own."""

import contextlib
import io
import os
from collections.abc import Callable, Mapping
from typing import NamedTuple
from unittest import mock

from tunesmith.local.main import main


class Ended(NamedTuple):
    """What a run of the command left behind."""

    returncode: int
    stdout: str
    stderr: str


Run = Callable[..., Ended]


def in_process(environment: Mapping[str, str]) -> Run:
    """A function of the command's words; its `env` adds variables to the environment."""

    def run(*words: object, env: Mapping[str, str] | None = None) -> Ended:
        out, err = io.StringIO(), io.StringIO()
        with (
            mock.patch.dict(os.environ, {**environment, **(env or {})}, clear=True),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            try:
                code: object = main([str(word) for word in words])
            except SystemExit as leaving:
                code = leaving.code
        return Ended(int(str(code)), out.getvalue(), err.getvalue())

    return run
