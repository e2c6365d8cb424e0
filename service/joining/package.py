"""The package that this service runs, as a wheel: made of what is installed, the same bytes in every process."""

import hashlib
import io
import zipfile
from base64 import urlsafe_b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import Final

import tunesmith

NAME: Final = "tunesmith"
CONSTRAINTS: Final = "constraints.txt"
_KEPT_METADATA = ("METADATA", "WHEEL", "entry_points.txt", "licenses/LICENSE")
_BEGINNING = (1980, 1, 1, 0, 0, 0)  # the moment that every file of the archive has
_MODE = 0o644 << 16


@dataclass(frozen=True)
class Wheel:
    """A built package: its file name, its bytes and their SHA-256."""

    filename: str
    content: bytes
    sha256: str


@cache
def own_wheel() -> Wheel:
    """Of the running version. It takes half a second the first time."""
    installed = distribution(NAME)
    content = _archive(dict(sorted(_files(installed))), info=_info(installed))
    filename = f"{NAME}-{installed.version}-py3-none-any.whl"
    return Wheel(filename, content, hashlib.sha256(content).hexdigest())


@cache
def own_constraints() -> bytes:
    """The exact versions that this one is tested with."""
    return _beside(CONSTRAINTS).read_bytes()


def _files(installed: Distribution) -> Iterator[tuple[str, bytes]]:
    """By name in the archive. In a checkout the folders of the package are links, and two parts lie outside of it."""
    package = Path(tunesmith.__path__[0])
    for path in _walk(package):
        yield f"{NAME}/{path.relative_to(package).as_posix()}", path.read_bytes()
    migrations = _beside("migrations")
    for path in _walk(migrations):
        yield f"{NAME}/service/migrations/{path.relative_to(migrations).as_posix()}", path.read_bytes()
    yield f"{NAME}/{CONSTRAINTS}", own_constraints()
    for name in _KEPT_METADATA:
        if (text := installed.read_text(name)) is not None:
            yield f"{_info(installed)}/{name}", text.encode()


def _walk(folder: Path) -> Iterator[Path]:
    """Every file below, through links, but for what Python has compiled."""
    for path in folder.iterdir():
        if path.is_dir() and path.name != "__pycache__":
            yield from _walk(path)
        elif path.is_file():
            yield path


def _beside(name: str) -> Path:
    """In an installed package or, in a checkout, next to its folders."""
    package = Path(tunesmith.__path__[0])
    places = (package / name, package / "service" / name, package.parent / name)
    return next(place for place in places if place.exists())


def _info(installed: Distribution) -> str:
    return f"{NAME}-{installed.version}.dist-info"


def _archive(files: Mapping[str, bytes], *, info: str) -> bytes:
    record = "".join(f"{name},sha256={_digest(content)},{len(content)}\n" for name, content in files.items())
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in {**files, f"{info}/RECORD": f"{record}{info}/RECORD,,\n".encode()}.items():
            entry = zipfile.ZipInfo(name, date_time=_BEGINNING)
            entry.external_attr = _MODE
            archive.writestr(entry, content, zipfile.ZIP_DEFLATED)
    return written.getvalue()


def _digest(content: bytes) -> str:
    """As RECORD files have it."""
    return urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
