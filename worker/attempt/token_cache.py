"""Tokenised rows that runs of one project share on this host: kept by the worker, read by trainers, bounded in size.

A trainer that tokenises leaves the result in its own run directory; when it has ended the worker moves it here, under
the hash of its content, and gives the folder to later runs of the same project to read. So no job can write what
another job reads, and what a trainer made up about a file reaches nobody but its own project, which could as well have
uploaded another file. The worker cannot know whether tokens are right without a tokenizer; that is why the project, and
not the content of the file, decides who shares. The format is the trainer's: `worker.train.data.cache`.
"""

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from tunesmith.tuning.values.hashes import sha256_of_text
from tunesmith.worker.hashes import sha256_of
from tunesmith.worker.run_directory import TOKENS_SUFFIX, USED_SUFFIX

_ENTRY = re.compile(rf"[0-9a-f]{{64}}\.([0-9a-f]{{64}}){re.escape(TOKENS_SUFFIX)}")


class TokenStore:
    """One folder for each project below `root`; together they hold at most so many bytes."""

    def __init__(self, root: Path, *, limit_bytes: int) -> None:
        self._root, self._limit_bytes = root, limit_bytes

    def folder(self, project: str) -> Path | None:
        """What a run of the project may read; None where nothing is kept, or the project is not known."""
        if not project or not self._limit_bytes:
            return None
        return self._root / sha256_of_text(project)[:32]

    def adopt(self, left: Path, *, project: str) -> None:
        """Take over the entries that an ended trainer has left, and note which others it used. Makes room for them."""
        folder = self.folder(project)
        if folder is None or left.is_symlink() or not left.is_dir():
            return
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for path in sorted(left.iterdir()):
            if path.name.endswith(USED_SUFFIX):
                self._touch(folder, path.name.removesuffix(USED_SUFFIX))
            elif self._is_entry(path):
                path.chmod(0o400)
                path.replace(folder / path.name)
                self._touch(folder, path.name)
        self._make_room()

    def _is_entry(self, path: Path) -> bool:
        """Whether it is what its name says. A link would be a way into, or out of, another folder."""
        named = _ENTRY.fullmatch(path.name)
        facts = path.lstat()
        if named is None or not stat.S_ISREG(facts.st_mode) or facts.st_nlink > 1 or facts.st_size > self._limit_bytes:
            return False
        return sha256_of(path) == named[1]

    def _touch(self, folder: Path, name: str) -> None:
        if _ENTRY.fullmatch(name) and (folder / name).is_file():
            os.utime(folder / name)

    def _make_room(self) -> None:
        """Remove those that were not used for longest. A run that has one mapped keeps it until it ends."""
        held = 0
        for _, size, path in sorted(self._entries(), reverse=True):
            held += size
            if held > self._limit_bytes:
                path.unlink(missing_ok=True)

    def _entries(self) -> Iterator[tuple[float, int, Path]]:
        """Last use, bytes and path of each."""
        for path in self._root.glob(f"*/*{TOKENS_SUFFIX}"):
            try:
                facts = path.stat()
            except FileNotFoundError:  # another process of this worker made room
                continue
            yield facts.st_mtime, facts.st_size, path
