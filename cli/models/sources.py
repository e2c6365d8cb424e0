"""Turns a GGUF file or a hub repository into a plain folder of weights. The heavy work runs in processes of its own."""

import re
import subprocess
import sys
from pathlib import Path

from tunesmith.cli.cache import cache_dir, made_aside
from tunesmith.cli.models.hashing import sha256_of
from tunesmith.cli.progress import transfer, waiting
from tunesmith.cli.trainer import last_json, run_tool
from tunesmith.tuning.errors import HubFailed, InvalidRequest
from tunesmith.tuning.models.hub import HubCommit

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_REVISION = re.compile(r"[A-Za-z0-9][\w./-]*")
_GGUF_MAGIC = b"GGUF"


def from_gguf(file: Path, *, cache: Path | None = None) -> Path:
    """A folder of safetensors made from the file, kept under the sha256 of the GGUF: the second time costs one hash.

    Raises:
        InvalidRequest: it is no GGUF file.
        ToolFailed: it cannot be converted, with the converter's reason.
    """
    _require_gguf(file)
    with transfer(f"hash {file.name}", total_bytes=file.stat().st_size) as advance:
        sha256 = sha256_of(file, advance=advance)
    target = (cache or cache_dir()) / "gguf" / sha256
    if not target.is_dir():
        with waiting(f"convert {file.name} to safetensors (once; it is kept)"), made_aside(target) as aside:
            run_tool("tunesmith.worker.train.models.gguf", str(file.absolute()), str(aside))
    return target


def from_hub(name: str) -> tuple[Path, HubCommit]:
    """The repository's safetensors and tokenizer in the hub's own cache, and the commit they are of.

    Raises:
        HubFailed: not reachable, not there, or not open to this machine.
    """
    identifier, _, revision = name.partition("@")
    if not _HUB_ID.fullmatch(identifier) or (revision and not _REVISION.fullmatch(revision)):
        raise InvalidRequest(
            f"{name!r} is not a hub name.", param="--hub", hint="write it like OWNER/NAME or OWNER/NAME@REVISION"
        )
    command = [sys.executable, "-m", "tunesmith.cli.models.hub_download", identifier, revision or "main"]
    with waiting(f"fetch {name} from the hub"):
        ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    answer = last_json(ended.stdout)
    if "path" in answer:
        return Path(answer["path"]), HubCommit(id=identifier, commit=answer["commit"])
    raise HubFailed(
        answer.get("message") or f"Fetching {name} ended with code {ended.returncode}.",
        http_status=int(answer.get("http_status", 500)),
        hint=answer.get("hint"),
    )


def to_hub(folder: Path, name: str) -> str:
    """Send a folder to the hub as a private repository; returns the address of the commit.

    Raises:
        InvalidRequest: `name` is not OWNER/NAME.
        HubFailed: not reachable, or it does not let this machine write.
    """
    if not _HUB_ID.fullmatch(name) or "/" not in name:
        raise InvalidRequest(f"{name!r} is not a hub name.", param="NAME", hint="write it like OWNER/NAME")
    command = [sys.executable, "-m", "tunesmith.cli.models.hub_upload", str(folder), name]
    with waiting(f"send to {name} on the hub"):
        ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    answer = last_json(ended.stdout)
    if "url" in answer:
        return str(answer["url"])
    raise HubFailed(
        answer.get("message") or f"Sending {name} ended with code {ended.returncode}.",
        http_status=int(answer.get("http_status", 500)),
        hint=answer.get("hint"),
    )


def _require_gguf(file: Path) -> None:
    if not file.is_file():
        raise InvalidRequest(f"{file} is not a file.", param="--gguf")
    with file.open("rb") as opened:
        if opened.read(4) != _GGUF_MAGIC:
            raise InvalidRequest(f"{file} does not start with GGUF, so it is another format.", param="--gguf")
