"""The version before this one, out of the history of the repository, to run beside today's.

It is the newest release before this commit, and where there is none what stood before the newest migration.
`EARLIER_VERSION` names another commit.
"""

import io
import os
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

_ROOT = Path(__file__).parents[2]
_PROGRAMS = ("service", "worker")


class EarlierVersion:
    """Its source below `folder`, and the packages that it needs and today's version does not."""

    def __init__(self, commit: str, folder: Path) -> None:
        self.commit = commit
        self.source = folder / "source"
        self._packages = folder / "packages"
        with tarfile.open(fileobj=io.BytesIO(_git("archive", commit))) as archive:
            archive.extractall(self.source, filter="data")
        missing = [str(one) for one in self._requirements() if not _is_met(one)]
        if missing:
            self._install(missing)

    @property
    def environment(self) -> dict[str, str]:
        """With it the programs of this environment are those of then."""
        return {"PYTHONPATH": os.pathsep.join((str(self.source), str(self._packages)))}

    def newest_migration(self) -> str:
        """Its number."""
        return max(path.name.partition("_")[0] for path in (self.source / "migrations" / "versions").glob("[0-9]*.py"))

    def _requirements(self) -> Iterator[Requirement]:
        project = tomllib.loads((self.source / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        for extra in _PROGRAMS:
            yield from map(Requirement, project["optional-dependencies"][extra])
        yield from map(Requirement, project["dependencies"])

    def _install(self, requirements: list[str]) -> None:
        pip = [sys.executable, "-m", "pip", "install", "-qq", "--target", str(self._packages), *requirements]
        done = subprocess.run(pip, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"{self.commit[:7]} needs {requirements}, which cannot be fetched: {done.stderr[-300:]}")


def earlier_version(folder: Path) -> EarlierVersion:
    """Skips the test where the history does not reach back to one, as in a shallow clone or outside of a repository."""
    try:
        return EarlierVersion(_commit(), folder)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"there is no history with an earlier version here: {error}")


def _commit() -> str:
    if named := os.environ.get("EARLIER_VERSION"):
        return _ask("rev-parse", "--verify", f"{named}^{{commit}}")
    releases = _ask("tag", "--merged", "HEAD^", "--sort=-version:refname", "--list", "v*").split()
    if releases:
        return _ask("rev-parse", f"{releases[0]}^{{commit}}")
    newest = max(path.name for path in (_ROOT / "migrations" / "versions").glob("[0-9]*.py"))
    added = _ask("log", "-1", "--diff-filter=A", "--format=%H", "--", f"migrations/versions/{newest}")
    return _ask("rev-parse", "--verify", f"{added or 'HEAD'}^")


def _ask(*words: str) -> str:
    return _git(*words).decode().strip()


def _git(*words: str) -> bytes:
    return subprocess.run(["git", *words], cwd=_ROOT, capture_output=True, check=True).stdout


def _is_met(requirement: Requirement) -> bool:
    if requirement.marker is not None and not requirement.marker.evaluate():
        return True
    try:
        return requirement.specifier.contains(version(requirement.name), prereleases=True)
    except PackageNotFoundError:
        return False
