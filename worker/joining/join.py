"""`tunesmith-worker join`: a key that this machine makes becomes a worker's, by a token that an admin gave out."""

import platform
import secrets
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urlsplit

import httpx2

from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import InvalidRequest, TunesmithError
from tunesmith.tuning.messages import JoinRequest
from tunesmith.tuning.values.hashes import sha256_of_text
from tunesmith.worker.joining.membership import Membership, remember
from tunesmith.worker.transport import greeting
from tunesmith.worker.transport.retry import Patience, Unavailable
from tunesmith.worker.transport.wire import service_client
from tunesmith.worker.work_directory import WorkDirectory

_TIMEOUT = httpx2.Timeout(10.0, connect=5.0)
_PATIENCE_SECONDS = 5.0  # a person waits: a service that is away for longer is told about


class NoAnswer(TunesmithError):
    """Nothing answers at the address, or nobody who can answer now."""

    code = ErrorCode.SERVICE_UNREACHABLE


def join(url: str, *, token: str, name: str | None, work_dir: Path) -> Membership:
    """Join the service at `url`, and remember it in the work directory.

    Raises:
        InvalidRequest: `url` is no address, or the versions differ.
        NoAnswer: nothing answers there.
        NotTunesmith: something else answers there.
        Unauthenticated: the token is unknown, used or expired.
    """
    address = _checked(url)
    key = f"ts-{secrets.token_urlsafe(32)}"
    request = JoinRequest(
        name=(name or platform.node() or "worker")[:100],
        version=version("tunesmith"),
        key_sha256=sha256_of_text(key),
        key_hint=key[-4:],
    )
    with service_client(address, token, timeout=_TIMEOUT) as client:
        try:
            answer = Patience(seconds=_PATIENCE_SECONDS).call(lambda: greeting.join(client, request))
        except Unavailable as error:
            raise NoAnswer(
                f"{address} does not answer: {error}.",
                param="URL",
                hint="Is it the address that the invitation has? Can this machine reach it, or is a firewall between?",
            ) from error
    membership = Membership(url=address, key=key, name=answer.name)
    remember(work_dir, membership)
    WorkDirectory(work_dir).forget_worker_id()
    return membership


def _checked(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        hint = "Write it like http://host:8101, as `tunesmith workers invite` prints it."
        raise InvalidRequest(f"{url!r:.100} is no address of a service.", param="URL", hint=hint)
    return url.rstrip("/").removesuffix("/v1")
