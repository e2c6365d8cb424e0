"""Under which identity a server that refuses to be root can run here."""

import functools
import os
import pwd
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tunesmith.local.embedded.errors import NoPrivilege


@dataclass(frozen=True)
class Identity:
    """How to start a server: `prefix` goes before its arguments, `user_id` is the user to become (None: stay)."""

    prefix: tuple[str, ...]
    user_id: int | None
    reason: str


def unprivileged(binary: Path, *, effective_uid: int | None = None) -> Identity:
    """The identity to run `binary` under.

    As root: a user namespace when the kernel allows one (files stay root's, the server sees itself as `nobody`; works
    even under a 0700 home), else the user `nobody`, who must be able to read the binary.

    Raises NoPrivilege when neither works.
    """
    uid = os.geteuid() if effective_uid is None else effective_uid
    if uid != 0:
        return Identity((), None, "an ordinary user")
    if user_namespaces_work():
        return Identity(("unshare", "--user"), None, "root, in a user namespace of its own")
    nobody = pwd.getpwnam("nobody").pw_uid
    if runs_as(nobody, binary):
        return Identity((), nobody, "root, stepping down to the user nobody")
    raise NoPrivilege(
        f"PostgreSQL refuses to run as root; user namespaces are off here, and the user nobody may not run {binary}.",
        hint="run `tunesmith up` as an ordinary user, or install PostgreSQL system-wide and set TUNESMITH_PG_BIN",
    )


@functools.cache
def user_namespaces_work() -> bool:
    """Whether `unshare --user` succeeds here; seccomp filters and sysctls often forbid it in containers."""
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "--user", "true"], capture_output=True, check=False).returncode == 0


def runs_as(user_id: int, binary: Path) -> bool:
    """Whether that user may execute `binary`; a binary in somebody's private home it may not."""
    try:
        probe = subprocess.run(
            [str(binary), "--version"],
            user=user_id,
            group=user_id,
            extra_groups=[],
            cwd="/",
            capture_output=True,
            check=False,
        )
    except OSError:
        return False
    return probe.returncode == 0
