"""The one line that makes another machine a worker: a virtual environment, the service's own package, and `join`."""

from shlex import quote
from urllib.parse import urlsplit, urlunsplit

from tunesmith.tuning.api.access.invitations import NewInvitation

_FOLDER = "~/tunesmith-worker"
_CPU_INDEX = "https://download.pytorch.org/whl/cpu"


def join_line(invitation: NewInvitation, *, url: str, cpu_only: bool = False) -> str:
    """For a POSIX shell with Python 3.11 or newer. pip checks the package's hash, and takes the versions it is told.

    The token is the password of the package's address: pip keeps such out of what it prints. PyTorch comes from the
    usual index, which has the build with CUDA, unless the machine shall train on its processor.
    """
    package = f"{_with_token(url, invitation.token)}/internal/package"
    wheel = f"tunesmith[worker] @ {package}/{invitation.wheel}#sha256={invitation.wheel_sha256}"
    index = f"--extra-index-url {_CPU_INDEX} " if cpu_only else ""
    name = f" --name {quote(invitation.name)}" if invitation.name else ""
    return (
        f"python3 -m venv {_FOLDER} && "
        f"{_FOLDER}/bin/pip install {index}-c {quote(f'{package}/constraints.txt')} {quote(wheel)} && "
        f"{_FOLDER}/bin/tunesmith-worker join {quote(url)} --token {quote(invitation.token)}{name}"
    )


def is_this_machine_only(url: str) -> bool:
    """Whether nobody else can reach the address."""
    host = urlsplit(url).hostname or ""
    return host in {"localhost", "::1"} or host.startswith("127.")


def _with_token(url: str, token: str) -> str:
    parts = urlsplit(url.rstrip("/"))
    return urlunsplit(parts._replace(netloc=f"join:{token}@{parts.netloc}"))
