"""The trainer's output on disk: everything up to a cap, then the beginning is dropped, because errors come last."""

import os
import threading
from pathlib import Path
from typing import IO

from tunesmith.worker.redact import scrub

TAIL_LINES = 60
_CHUNK_BYTES = 64 * 1024


class TrainerLog:
    """Copies a pipe to a file in a thread, so that a flood of output fills neither the disk nor the pipe."""

    def __init__(self, path: Path, *, cap_bytes: int) -> None:
        self._path = path
        self._cap_bytes = cap_bytes
        self._thread: threading.Thread | None = None

    def follow(self, descriptor: int) -> None:
        """Copy until the last process that holds the other end is gone."""
        self._thread = threading.Thread(target=self._copy, args=(descriptor,), name="trainer-log", daemon=True)
        self._thread.start()

    def close(self, *, wait_seconds: float = 5.0) -> None:
        """Wait for the end of the output."""
        if self._thread is not None:
            self._thread.join(wait_seconds)

    def _copy(self, descriptor: int) -> None:
        with self._path.open("ab", buffering=0) as file:
            while chunk := os.read(descriptor, _CHUNK_BYTES):
                self._write(file, chunk)
        os.close(descriptor)

    def _write(self, file: IO[bytes], chunk: bytes) -> None:
        try:
            file.write(chunk)
            if file.tell() > self._cap_bytes:
                self._drop_beginning(file)
        except OSError:
            return  # a full disk must not block the trainer on its output; the run fails for a clearer reason

    def _drop_beginning(self, file: IO[bytes]) -> None:
        with self._path.open("rb") as whole:
            whole.seek(-self._cap_bytes // 2, os.SEEK_END)
            dropped = whole.tell()
            rest = whole.read()
        file.truncate(0)
        file.write(f"[{dropped:,} bytes of earlier output dropped]\n".encode() + rest)


def log_tail(path: Path, *, secrets: tuple[str, ...] = (), lines: int = TAIL_LINES) -> str:
    """The last lines of a log as text without secrets; empty when there is no log."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _CHUNK_BYTES))
            text = file.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    return scrub("\n".join(text.replace("\0", "").splitlines()[-lines:]), secrets)


def scrubbed_copy(path: Path, target: Path, *, secrets: tuple[str, ...] = ()) -> None:
    """Write the log without secrets to `target`, line by line."""
    with path.open(encoding="utf-8", errors="replace") as log, target.open("w", encoding="utf-8") as copy:
        for line in log:
            copy.write(scrub(line, secrets))
