"""From the end of a server's log to an error that says what to do."""

import re
from pathlib import Path

from tunesmith.local.embedded.errors import DirectoryUnusable, DiskFull, EmbeddedError, ServerFailed
from tunesmith.local.embedded.process import tail

_DISK_FULL = re.compile(r"No space left on device|Disk quota exceeded|Check free disk space", re.IGNORECASE)
_STILL_OWNED = re.compile(r"lock file .* already exists|pre-existing shared memory block", re.IGNORECASE)
_NOT_OURS = re.compile(r"Permission denied|has wrong ownership|has invalid permissions|Read-only file system")
_DAMAGED = re.compile(
    r"could not locate a valid checkpoint|invalid (primary )?checkpoint|incorrect checksum in control file"
    r"|control file .*(corrupt|invalid|size)|is not a valid data directory|could not open file|invalid page"
    r"|database files are incompatible|could not find the database system|could not read file",
    re.IGNORECASE,
)


def postgres_failure(what: str, *, log: Path, data: Path) -> EmbeddedError:
    """The error for a PostgreSQL that failed, told from the last lines of its log."""
    words = tail(log, lines=15)
    reason = _last_complaint(words) or "it said nothing"
    if _DISK_FULL.search(words):
        return DiskFull(f"{what}: the disk that holds {data} is full.", hint="free some space and start again")
    if _STILL_OWNED.search(words):
        return ServerFailed(
            f"{what}: another PostgreSQL still uses {data} ({reason}).",
            hint=f"stop that process, then start again; log: {log}",
        )
    if _NOT_OURS.search(words):
        return DirectoryUnusable(
            f"{what}: {data} cannot be used ({reason}).", hint=f"check who owns {data}, or choose another --data-dir"
        )
    if _DAMAGED.search(words):
        return DirectoryUnusable(
            f"{what}: {data} is damaged ({reason}).",
            hint=f"restore it from a backup, or choose another --data-dir; log: {log}",
        )
    return ServerFailed(f"{what}: {reason}.", hint=f"the whole story is in {log}")


def valkey_failure(what: str, *, log: Path) -> EmbeddedError:
    """The error for a Valkey that failed."""
    words = tail(log, lines=10)
    if _DISK_FULL.search(words):
        return DiskFull(f"{what}: the disk is full.", hint="free some space and start again")
    reason = (words.splitlines() or ["it said nothing"])[-1].strip()
    return ServerFailed(f"{what}: {reason}.", hint=f"the whole story is in {log}")


def _last_complaint(words: str) -> str | None:
    """The text after FATAL, PANIC or error in the last line that has one."""
    for line in reversed(words.splitlines()):
        if match := re.search(r"(?:FATAL|PANIC|ERROR|error|could not)[:\s]+(.*)", line):
            return match.group(1).strip().rstrip(".")
    lines = words.splitlines()
    return lines[-1].strip().rstrip(".") if lines else None
