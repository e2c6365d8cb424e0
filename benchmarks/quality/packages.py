"""A real task with a countable answer: the Debian package index, package name and summary -> section.

The index is the machine's own, as apt has it. Of its sections only those that say what a program is about are asked
for: `python`, `libdevel`, `fonts-*` and their like are written in the package's name, and a rule finds them.
"""

import hashlib
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

# The most frequent sections of Debian 12 that are named by subject rather than by language, toolkit or kind of file.
SECTIONS = (
    "admin",
    "database",
    "editors",
    "electronics",
    "games",
    "graphics",
    "mail",
    "math",
    "net",
    "science",
    "sound",
    "text",
    "utils",
    "video",
    "web",
)
HELD_OUT_SHARE = 0.5


class NoPackageIndex(Exception):
    """There is no usable package index; the message says what to do."""


@dataclass(frozen=True)
class Package:
    """One entry of the index. `source` is the package it was built from, `section` has no `contrib/` before it."""

    name: str
    source: str
    section: str
    summary: str


@dataclass(frozen=True)
class Split:
    """Balanced over the sections; no source package is on both sides."""

    training: tuple[Package, ...]
    held_out: tuple[Package, ...]


def read_index(file: Path | None = None) -> list[Package]:
    """The packages of `file`, or of the machine's own index (`apt-cache dumpavail`).

    Raises:
        NoPackageIndex: there is no apt, or it knows no packages.
    """
    text = file.read_text(encoding="utf-8") if file else _dump()
    packages = list(parse(text.splitlines()))
    if not packages:
        raise NoPackageIndex(
            "The package index is empty: run `apt-get update` as root, or name a file with the output of "
            "`apt-cache dumpavail` from another machine with --packages."
        )
    return packages


def parse(lines: Iterable[str]) -> Iterator[Package]:
    """Entries of the control-file format (deb822) that have a section and a summary; later versions are left out."""
    fields: dict[str, str] = {}
    seen: set[str] = set()
    for line in (*lines, ""):
        if line.strip():
            key, colon, value = line.partition(":")
            if colon and not line[0].isspace():
                fields[key] = value.strip()
            continue
        name = fields.get("Package", "")
        if name and name not in seen and fields.get("Section") and fields.get("Description"):
            seen.add(name)
            yield Package(
                name=name,
                source=(fields.get("Source") or name).split()[0],
                section=fields["Section"].rpartition("/")[2],
                summary=fields["Description"],
            )
        fields = {}


def split(packages: Iterable[Package], *, training_rows: int, held_out_rows: int) -> Split:
    """As many rows of each section as asked for in all, chosen by hash: the same index gives the same rows.

    The side is decided by sha256 of the source package's name, so that `foo-data` cannot be learned from `foo`, and
    stays the same when the index grows. Of each source package one binary package is taken.

    Raises:
        NoPackageIndex: a section has too few packages.
    """
    chosen: dict[tuple[str, bool], list[Package]] = defaultdict(list)
    for package in _one_of_each_source(packages):
        chosen[package.section, is_held_out(package.source)].append(package)
    sides: dict[bool, list[Package]] = {}
    for held_out, wanted in ((False, training_rows), (True, held_out_rows)):
        each = wanted // len(SECTIONS)
        short = [section for section in SECTIONS if len(chosen[section, held_out]) < each]
        if short:
            raise NoPackageIndex(
                f"The index has only {len(chosen[short[0], held_out])} packages of section {short[0]} for a side that "
                f"needs {each}: ask for fewer rows, or add `main` to apt's sources and run `apt-get update`."
            )
        sides[held_out] = sorted(
            (package for section in SECTIONS for package in chosen[section, held_out][:each]), key=_hash_of_name
        )
    return Split(training=tuple(sides[False]), held_out=tuple(sides[True]))


def is_held_out(source: str) -> bool:
    """Which side all packages built from `source` are on."""
    return int(_sha256(source)[:8], 16) < HELD_OUT_SHARE * 2**32


def prompt_of(package: Package) -> str:
    """What the model is given; the answer follows after a space."""
    return f"Package: {package.name}\nSummary: {package.summary}\nSection:"


def answer_of(section: str) -> str:
    """What it should write next."""
    return f" {section}"


def row_of(package: Package) -> dict[str, str]:
    """One line of a training file."""
    return {"prompt": prompt_of(package), "completion": answer_of(package.section)}


def _one_of_each_source(packages: Iterable[Package]) -> list[Package]:
    first: dict[str, Package] = {}
    for package in sorted((one for one in packages if one.section in SECTIONS), key=_hash_of_name):
        first.setdefault(package.source, package)
    return sorted(first.values(), key=lambda package: _sha256(package.source))


def _hash_of_name(package: Package) -> str:
    return _sha256(package.name)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _dump() -> str:
    if shutil.which("apt-cache") is None:
        raise NoPackageIndex(
            "This benchmark reads the Debian package index, and there is no `apt-cache` here. Run it on Debian or "
            "Ubuntu, or name a file with the output of `apt-cache dumpavail` from such a machine with --packages."
        )
    done = subprocess.run(["apt-cache", "dumpavail"], capture_output=True, check=False)
    if done.returncode:
        raise NoPackageIndex(f"`apt-cache dumpavail` failed: {done.stderr.decode(errors='replace').strip()[-300:]}")
    return done.stdout.decode("utf-8", errors="replace")
