"""Whether models are about to be measured on rows that they were trained on: looked for before the job is made."""

import asyncio
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.blobs.objects import BlobStore
from tunesmith.service.database.transactions import Database
from tunesmith.service.evaluations import models, store
from tunesmith.service.evaluations.schemas import EvaluationCreate
from tunesmith.service.evaluations.shared_rows import EVALUATED
from tunesmith.service.evaluations.store import UsedFor
from tunesmith.service.jobs.planning_request import report_of, usable_file
from tunesmith.tuning.errors import TunesmithError
from tunesmith.tuning.evaluation import SeenRows

log = structlog.get_logger(__name__)

_LARGEST_BYTES = 64 * 1024**2
_MOST_SECONDS = 30.0
_TOOL = (sys.executable, "-m", "tunesmith.service.evaluations.shared_rows")
_at_once = asyncio.Semaphore(2)


@dataclass(frozen=True)
class _Content:
    """A file's bytes, if it still has them."""

    id: str
    sha256: str | None
    length_bytes: int


@dataclass(frozen=True)
class _Use:
    """What a model's job did with a file."""

    model: str
    used_for: UsedFor
    file: _Content


async def look_for_seen_rows(
    database: Database, blobs: BlobStore, asked: EvaluationCreate, *, project: str, meant_by: Callable[[str], str]
) -> tuple[SeenRows, ...]:
    """What each file of the models' jobs has in common with the evaluation's; nothing where they share no row.

    Rows are equal when they mean the same, however they are written. What is wrong with the request is not said here.
    """
    try:
        async with database.transaction() as session:
            file = await usable_file(session, asked.file, "file", project=project)
            uses = await _uses(session, asked, project=project, meant_by=meant_by)
            own, rows = _Content(file.id, file.blob_sha256, file.bytes), report_of(file).facts().rows
    except TunesmithError:
        return ()
    others = {use.file.sha256: use.file for use in uses if _is_readable(use.file) and use.file.sha256 != own.sha256}
    counts = await _counted(blobs, own, list(others.values())) if others and _is_readable(own) else {}
    by_hash = counts | {own.sha256: rows}
    found = (_seen(use, None if use.file.sha256 is None else by_hash.get(use.file.sha256), of=rows) for use in uses)
    return tuple(seen for seen in found if seen.rows != 0)


async def _uses(
    session: AsyncSession, asked: EvaluationCreate, *, project: str, meant_by: Callable[[str], str]
) -> list[_Use]:
    found: dict[tuple[str, str], _Use] = {}
    sides = await models.find_sides(session, asked.model, asked.against, project=project, meant_by=meant_by)
    for side in sides:
        for used_for, file in await store.find_seen_files(session, side.job_id):
            use = _Use(side.name, used_for, _Content(file.id, file.blob_sha256, file.bytes))
            found.setdefault((side.name, file.id), use)
    return list(found.values())


def _is_readable(file: _Content) -> bool:
    return file.sha256 is not None and file.length_bytes <= _LARGEST_BYTES


async def _counted(blobs: BlobStore, own: _Content, others: Sequence[_Content]) -> dict[str | None, int]:
    """Rows of the first that are in each of the others, by their hash; a process reads them, as they come in."""
    try:
        async with _at_once, asyncio.timeout(_MOST_SECONDS):
            with tempfile.TemporaryDirectory(prefix="tunesmith-rows-") as folder:
                names = [str(number) for number in range(len(others))]
                for name, file in zip((EVALUATED, *names), (own, *others), strict=True):
                    await _fetch(blobs, file, Path(folder) / name)
                return dict(zip([file.sha256 for file in others], await _run(folder, names), strict=True))
    except (OSError, ValueError, TimeoutError, TunesmithError) as error:
        log.warning("evaluation.rows_not_compared", file=own.id, reason=f"{type(error).__name__}: {error}"[:300])
        return {}


async def _fetch(blobs: BlobStore, file: _Content, target: Path) -> None:
    with target.open("wb") as out:
        async for piece in blobs.read(str(file.sha256), start=0, end=file.length_bytes):
            out.write(piece)


async def _run(folder: str, names: Sequence[str]) -> list[int]:
    process = await asyncio.create_subprocess_exec(*_TOOL, folder, *names, stdout=asyncio.subprocess.PIPE)
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return [int(line) for line in output.split()]


def _seen(use: _Use, rows: int | None, *, of: int) -> SeenRows:
    where = "was trained on" if use.used_for == "training" else "was validated by"
    if rows is not None:
        text = f"{rows:,} of {of:,} rows are in {use.file.id}, which {use.model} {where}: its numbers flatter it."
    else:
        text = f"Whether {use.model} {where} some of these rows is unknown: {use.file.id} {_why_not(use.file)}."
    return SeenRows(model=use.model, file=use.file.id, used_for=use.used_for, rows=rows, text=text)


def _why_not(file: _Content) -> str:
    if file.sha256 is None:
        return "is gone"
    return "could not be compared in time" if _is_readable(file) else f"has over {_LARGEST_BYTES:,} bytes"
