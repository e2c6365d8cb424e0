"""The trainer's output on disk: everything up to a cap, then the beginning is dropped, because errors come last."""

import contextlib
import os
import threading
from pathlib import Path
from typing import IO

import structlog

from tunesmith.tuning.errors import brief
from tunesmith.tuning.values.redact import scrub
from tunesmith.worker.run_directory import without_links

log = structlog.get_logger(__name__)

TAIL_LINES = 60
_CHUNK_BYTES = 64 * 1024
_LONGEST_LINE_BYTES = 1024**2


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
        try:
            with self._opened() as file:
                while chunk := os.read(descriptor, _CHUNK_BYTES):
                    self._write(file, chunk)
        except Exception as error:  # whatever it was: a trainer would block on output that nobody reads
            log.warning("trainer_log.not_written", path=str(self._path), error=brief(error))
            while os.read(descriptor, _CHUNK_BYTES):
                pass
        finally:
            os.close(descriptor)

    def _opened(self) -> IO[bytes]:
        """The file of this name itself; what an earlier trainer may have put there instead is removed."""
        with contextlib.suppress(OSError):
            return open(self._path, "a+b", buffering=0, opener=without_links)
        self._path.unlink(missing_ok=True)
        return open(self._path, "a+b", buffering=0, opener=without_links)

    def _write(self, file: IO[bytes], chunk: bytes) -> None:
        try:
            file.write(chunk)
            if file.tell() > self._cap_bytes:
                self._drop_beginning(file)
        except OSError:
            return  # a full disk must not block the trainer on its output; the run fails for a clearer reason

    def _drop_beginning(self, file: IO[bytes]) -> None:
        file.seek(-self._cap_bytes // 2, os.SEEK_END)
        dropped = file.tell()
        rest = file.read()
        file.truncate(0)
        file.write(f"[{dropped:,} bytes of earlier output dropped]\n".encode() + rest)


def log_tail(path: Path, *, secrets: tuple[str, ...] = (), lines: int = TAIL_LINES) -> str:
    """The last lines of a log as text without secrets; empty when there is no log."""
    try:
        with open(path, "rb", opener=without_links) as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _CHUNK_BYTES))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
    return scrub("\n".join(text.replace("\0", "").splitlines()[-lines:]), secrets)


def scrubbed_copy(path: Path, target: Path, *, secrets: tuple[str, ...] = (), cap_bytes: int) -> None:
    """Write the log without secrets to `target`, line by line: its end, where a trainer has made it longer itself.

    Raises:
        OSError: it is no plain file.
    """
    with open(path, "rb", opener=without_links) as source, target.open("w", encoding="utf-8") as copy:
        dropped = source.seek(max(0, source.seek(0, os.SEEK_END) - cap_bytes))
        if dropped:
            copy.write(f"[{dropped:,} bytes of earlier output dropped]\n")
        while line := source.readline(_LONGEST_LINE_BYTES):
            copy.write(scrub(line.decode("utf-8", errors="replace"), secrets))
