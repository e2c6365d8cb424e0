"""Tokenised rows on disk: a retrain, a retry and every process of a run tokenise a file once.

An entry is one safetensors file, named by what its rows follow from and by its own SHA-256, so that it shows when one
was altered. A trainer writes entries into its own run directory alone. The folder that jobs share is for reading: the
worker fills it with what trainers left behind (`worker.attempt.token_cache`), for no job may write what another reads.
"""

import dataclasses
import importlib.metadata
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from tunesmith.tuning import datasets
from tunesmith.tuning.values.hashes import sha256_of_text
from tunesmith.worker.hashes import sha256_of
from tunesmith.worker.run_directory import TOKENS_SUFFIX, USED_SUFFIX
from tunesmith.worker.train.data.rows import LeftOut, RowNotes, Rows
from tunesmith.worker.train.recorder import Recorder

_TRAINER = Path(__file__).parents[1]
READ_BY = (Path(datasets.__file__).parent, _TRAINER / "chat", _TRAINER / "data")  # code that rows follow from
RENDERED_BY = ("jinja2", "tokenizers", "transformers")  # another release may print or split another way
TOKENIZER_FILES = ("*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken")
ARRAYS = ("tokens", "supervised", "offsets", "line_numbers")
WHOLE = "whole"  # an entry that no limit has cut
_DTYPES: dict[str, np.dtype[Any]] = {"I32": np.dtype("<i4"), "I64": np.dtype("<i8"), "BOOL": np.dtype(bool)}


def rows_key(path: Path, *, model_folder: Path, template: str | None, settings: Mapping[str, object]) -> str:
    """A hash of everything that rows follow from but the limit of their length.

    The file's bytes, the tokenizer's files, the `template` that the model came with, the `settings` that `load_rows`
    takes, the code that parses and renders rows and the libraries under it. The day that a template prints counts only
    where it can print one, or every night would tokenise anew.
    """
    counting = dict(settings)
    if "strftime_now" not in str(template):
        counting.pop("today", None)
    facts = {
        "file": sha256_of(path),
        "tokenizer": {file.relative_to(model_folder).as_posix(): sha256_of(file) for file in _files(model_folder)},
        "template": str(template),
        "settings": {name: str(value) for name, value in counting.items()},
        "code": [sha256_of(file) for room in READ_BY for file in sorted(room.glob("*.py"))],
        "versions": {name: importlib.metadata.version(name) for name in RENDERED_BY},
    }
    return sha256_of_text(json.dumps(facts, sort_keys=True))


class RowCache:
    """Entries in a run's `own` folder, which it writes, and in the one that it `shared` with other runs, if any."""

    def __init__(self, own: Path, *, shared: Path | None, recorder: Recorder) -> None:
        self._own, self._shared, self._recorder = own, shared, recorder

    def find(self, key: str, *, limit: int) -> Rows | None:
        """The rows, mapped into memory, if an entry holds them for rows of at most `limit` tokens.

        An entry that is not what its name says is passed over, with an event.
        """
        for name in (_name(key, limit), _name(key, WHOLE)):
            for entry in self._entries(name):
                rows = self._read(entry)
                if rows is None or (name == _name(key, WHOLE) and _longest(rows) > limit):
                    continue
                if entry.parent != self._own:
                    self._own.mkdir(exist_ok=True)
                    (self._own / f"{entry.name}{USED_SUFFIX}").touch()
                return rows
        return None

    def keep(self, rows: Rows, key: str, *, limit: int) -> Rows:
        """Write an entry and return its rows, mapped into memory; where it cannot be written, the rows themselves."""
        is_whole = not (rows.notes.truncated or rows.notes.unsupervised)
        name = _name(key, WHOLE if is_whole else limit)
        aside = self._own / f".{name}.{os.getpid()}"
        try:
            self._own.mkdir(exist_ok=True)
            save_file({array: getattr(rows, array) for array in ARRAYS}, aside, metadata={"rows": _facts(rows)})
            aside.rename(self._own / f"{name}.{sha256_of(aside)}{TOKENS_SUFFIX}")
        except OSError as error:
            aside.unlink(missing_ok=True)
            text = f"Tokenised rows could not be kept ({error.strerror}): the next run tokenises them again."
            self._recorder.event(text, level="warn")
            return rows
        return self.find(key, limit=limit) or rows

    def tell_found(self, rows: Rows) -> None:
        """One event, so that a person sees why a run began at once."""
        self._recorder.event(f"{len(rows)} rows were at hand, tokenised by an earlier run.", rows=len(rows))

    def _entries(self, name: str) -> Iterator[Path]:
        for folder in (self._own, self._shared):
            if folder is not None:
                yield from sorted(folder.glob(f"{name}.*{TOKENS_SUFFIX}"))

    def _read(self, entry: Path) -> Rows | None:
        content = entry.name.removesuffix(TOKENS_SUFFIX).rpartition(".")[2]
        try:
            if sha256_of(entry) == content:
                return _mapped(entry)
        except FileNotFoundError:  # the worker made room between the look at the folder and this one
            return None
        except (OSError, ValueError, KeyError, TypeError):
            pass
        text = "A cached tokenisation was altered on disk and is not used: the rows are tokenised anew."
        self._recorder.event(text, level="warn", entry=entry.name)
        return None


def cached_rows(
    cache: RowCache, key: str, *, limit: int, load: Callable[[], Rows], is_main: bool, wait: Callable[[], None]
) -> Rows:
    """The rows of a file, the same in every process of a run, by whichever way is shorter.

    The main process finds or makes the entry, then all `wait` for one another, then the others map it. Where they do
    not see its folder they tokenise for themselves.
    """
    if not is_main:
        wait()
        return cache.find(key, limit=limit) or load()
    found = cache.find(key, limit=limit)
    if found is not None:
        cache.tell_found(found)
    rows = found or cache.keep(load(), key, limit=limit)
    wait()
    return rows


def _name(key: str, limit: int | str) -> str:
    return sha256_of_text(f"{key}:{limit}")


def _files(folder: Path) -> list[Path]:
    """Everything that a tokenizer may be loaded from; weights and their index are not."""
    found = {file for pattern in TOKENIZER_FILES for file in folder.rglob(pattern) if file.is_file()}
    return sorted(file for file in found if not file.name.endswith(".index.json"))


def _longest(rows: Rows) -> int:
    return int(np.diff(rows.offsets).max())


def _facts(rows: Rows) -> str:
    facts = {"sequences_per_row": rows.sequences_per_row, "notes": dataclasses.asdict(rows.notes)}
    return json.dumps(facts, sort_keys=True)


def _mapped(entry: Path) -> Rows:
    """The rows of a safetensors file: eight bytes that give the length of a JSON header, the header, the arrays.

    Raises:
        ValueError, KeyError, TypeError: it holds something else.
    """
    with entry.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > entry.stat().st_size:
            raise ValueError("the header is longer than the file")
        header = json.loads(file.read(length))
        start = file.tell()
    facts = json.loads(header["__metadata__"]["rows"])
    notes = facts["notes"]
    notes["left_out"] = {name: LeftOut(*counted) for name, counted in notes["left_out"].items()}
    arrays = {name: _array(entry, header[name], start=start) for name in ARRAYS}
    rows = Rows(**arrays, sequences_per_row=facts["sequences_per_row"], notes=RowNotes(**notes))
    _check(rows)
    return rows


def _array(entry: Path, described: Mapping[str, Any], *, start: int) -> np.ndarray:
    dtype, (length,), (begin, end) = _DTYPES[described["dtype"]], described["shape"], described["data_offsets"]
    if end - begin != dtype.itemsize * length:
        raise ValueError("an array has another size than its shape says")
    mapped = np.memmap(entry, dtype=dtype, mode="r", offset=start + begin, shape=length)
    return np.asarray(mapped)  # a plain array: slices of the map's own class are slow to make


def _check(rows: Rows) -> None:
    sequences, bounds = len(rows.line_numbers) * rows.sequences_per_row, rows.offsets
    if not sequences or len(bounds) != sequences + 1 or bounds[0] != 0 or np.any(np.diff(bounds) <= 0):
        raise ValueError("the bounds of sequences do not ascend")
    if not bounds[-1] == len(rows.tokens) == len(rows.supervised):
        raise ValueError("tokens and marks do not end where the last sequence does")
