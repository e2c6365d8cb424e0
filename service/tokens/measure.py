"""Tokens of a training file by the tokenizer of the model that it is for, counted on a sample before a job is planned.

What the check at upload estimates from bytes is off by a fifth for short rows: it knows neither template nor tokenizer.
"""

import asyncio
import logging
import os
import sys
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path

from starlette.concurrency import run_in_threadpool

from tunesmith.service.aliases.resolve import resolve
from tunesmith.service.blobs.objects import BlobStore
from tunesmith.service.database.transactions import Database
from tunesmith.service.files import store as files
from tunesmith.service.files.intake import TRAINING_PURPOSE
from tunesmith.service.models import store as models
from tunesmith.tuning.datasets.rows import RowChecker, RowReport
from tunesmith.tuning.datasets.token_scale import TokenCounts, TokenScale
from tunesmith.tuning.errors import TunesmithError
from tunesmith.tuning.messages import FileRef

_TOKENIZER = "tokenizer.json"
_WANTED = (_TOKENIZER, "tokenizer_config.json", "chat_template.jinja")
_LARGEST_FILE_BYTES = 64 * 1024**2
_SLICES, _SLICE_BYTES = 4, 64 * 1024
_MOST_ROWS = 400
_MOST_SECONDS = 5.0
_REMEMBERED = 512
_TOOL = (sys.executable, "-m", "tunesmith.service.tokens.counting")
# The tokenizer and the template are a model's: no password and no key goes along.
_INHERITED = ("PATH", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "PYTHONPATH")

_log = logging.getLogger(__name__)
_remembered: "OrderedDict[tuple[str, ...], TokenScale | None]" = OrderedDict()
_lately: dict[tuple[str, str, str], tuple[tuple[str, ...], float]] = {}
_LATELY_SECONDS = 10.0  # in which the same file and model are not looked up again: what they are is checked elsewhere
_at_once = asyncio.Semaphore(2)


async def measure(
    database: Database,
    blobs: BlobStore,
    *,
    training_file: str,
    model: str,
    project: str,
    clock: Callable[[], float] = time.monotonic,
) -> TokenScale | None:
    """Counted over estimated; None where the model has no fast tokenizer, or it could not count the rows in time."""
    asked = (training_file, model, project)
    lately, at = _lately.get(asked, ((), 0.0))
    if lately in _remembered and clock() - at < _LATELY_SECONDS:
        return _remembered[lately]
    try:
        async with database.transaction() as session:
            file = await files.find(session, training_file, project=project)
            known = await models.find_ready(session, await resolve(session, model, project=project), project=project)
            found = [FileRef.model_validate(entry) for entry in known.files]
            content = files.bytes_of(file, name="rows.jsonl")
            usable = file.purpose == TRAINING_PURPOSE and file.status == "processed"
    except TunesmithError:
        return None  # what is wrong is said where the job is checked
    wanted = {ref.name: ref for ref in found if ref.name in _WANTED and ref.bytes <= _LARGEST_FILE_BYTES}
    if not usable:
        return None
    key = (content.sha256, *(wanted[name].sha256 for name in sorted(wanted)))
    if _TOKENIZER not in wanted:
        _remembered[key] = None
    if key not in _remembered:
        async with _at_once:
            _remembered[key] = await _measured(blobs, content, wanted)
        while len(_remembered) > _REMEMBERED:
            _remembered.popitem(last=False)
    if len(_lately) >= _REMEMBERED:
        _lately.clear()
    _lately[asked] = key, clock()
    return _remembered[key]


async def _measured(blobs: BlobStore, rows: FileRef, tokenizer: Mapping[str, FileRef]) -> TokenScale | None:
    try:
        sample = await _sample(blobs, rows)
        estimated = await run_in_threadpool(_estimated, sample)
        with tempfile.TemporaryDirectory(prefix="tunesmith-tokens-") as folder:
            (Path(folder) / "rows.jsonl").write_bytes(sample)
            for name, ref in tokenizer.items():
                (Path(folder) / name).write_bytes(await _read(blobs, ref, start=0, end=ref.bytes))
            counts = TokenCounts.model_validate_json(await _output_of(*_TOOL, folder))
        return TokenScale.of(counts, estimated=estimated)
    except (OSError, ValueError, TimeoutError) as error:
        _log.warning("tokens are estimated: %s", str(error)[:300])
        return None


def _estimated(sample: bytes) -> RowReport:
    checker = RowChecker()
    checker.feed(sample)
    return checker.finish()


async def _output_of(*command: str) -> bytes:
    process = await asyncio.create_subprocess_exec(
        *command,
        env={name: value for name, value in os.environ.items() if name in _INHERITED},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        output, problems = await asyncio.wait_for(process.communicate(), _MOST_SECONDS)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise ValueError(problems.decode(errors="replace").strip().rpartition("\n")[2])
    return output


async def _sample(blobs: BlobStore, rows: FileRef) -> bytes:
    """Whole rows of a few stretches of the file, evenly spread; of a small file all."""
    if rows.bytes <= _SLICES * _SLICE_BYTES:
        return _some_lines(await _read(blobs, rows, start=0, end=rows.bytes), most=_MOST_ROWS)
    step = (rows.bytes - _SLICE_BYTES) // (_SLICES - 1)
    parts = []
    for start in range(0, _SLICES * step, step):
        piece = await _read(blobs, rows, start=start, end=start + _SLICE_BYTES)
        whole = piece if not start else piece.partition(b"\n")[2]  # the first line of the others began before
        parts.append(_some_lines(whole.rpartition(b"\n")[0] + b"\n", most=_MOST_ROWS // _SLICES))
    return b"".join(parts)


def _some_lines(text: bytes, *, most: int) -> bytes:
    rows = [line.strip() for line in text.split(b"\n") if line.strip()]
    return b"".join(row + b"\n" for row in rows[:most])


async def _read(blobs: BlobStore, ref: FileRef, *, start: int, end: int) -> bytes:
    return b"".join([chunk async for chunk in blobs.read(ref.sha256, start=start, end=end)])
