"""The records of a CSV, Parquet or JSON file one after another, in bounded memory, each with its place in the file."""

import csv
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from tunesmith.tuning.datasets.row_parser import MAX_ROW_BYTES
from tunesmith.tuning.errors import InvalidTrainingFile

_PIECE = 1 << 16
_DELIMITERS = {".csv": ",", ".tsv": "\t"}


class Placed(NamedTuple):
    """A record with where it stands, as `line 7` or `row 7`."""

    place: str
    record: dict[str, Any]


def is_convertible(path: Path) -> bool:
    """Whether the file is a table or a JSON array; JSON lines are no matter of this module."""
    suffix = path.suffix.lower()
    return suffix in _DELIMITERS or suffix == ".parquet" or (suffix == ".json" and _is_array(path))


def records(path: Path) -> Iterator[Placed]:
    """All records of a convertible file.

    Raises:
        InvalidTrainingFile: it breaks off or is damaged, with the line; or the library for it is missing.
    """
    suffix = path.suffix.lower()
    if suffix in _DELIMITERS:
        return _of_csv(path, delimiter=_DELIMITERS[suffix])
    return _of_parquet(path) if suffix == ".parquet" else _of_array(path)


def refused(path: Path, problem: str, *, hint: str) -> InvalidTrainingFile:
    """The error about a file that cannot be converted."""
    return InvalidTrainingFile(f"{path.name}: {problem}", param="training_file", hint=hint)


def _is_array(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(1024).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")


def _of_csv(path: Path, *, delimiter: str) -> Iterator[Placed]:
    csv.field_size_limit(MAX_ROW_BYTES)
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        columns: list[str] | None = None
        while True:
            line = reader.line_num + 1
            fields = _next_fields(reader, path, line)
            if fields is None:
                return
            if columns is None:
                columns = fields
            elif fields:
                _require_width(path, line, fields, columns)
                yield Placed(f"line {line:,}", dict(zip(columns, fields, strict=True)))


def _next_fields(reader: Any, path: Path, line: int) -> list[str] | None:
    try:
        return next(reader, None)
    except csv.Error as error:
        hint = "A quote that opens a field must close it; write a quote inside a field twice."
        raise refused(path, f"the record that begins in line {line:,} is broken ({error}).", hint=hint) from error
    except UnicodeDecodeError as error:
        raise refused(path, f"line {line:,} or one soon after is not UTF-8.", hint="Save it as UTF-8.") from error


def _require_width(path: Path, line: int, fields: list[str], columns: list[str]) -> None:
    if len(fields) != len(columns):
        problem = f"line {line:,} has {len(fields)} fields, the first line {len(columns)}."
        raise refused(path, problem, hint="Put quotes around fields that hold a delimiter, and look for a lost quote.")


def _of_array(path: Path) -> Iterator[Placed]:
    with path.open(encoding="utf-8-sig") as file:
        for number, value in enumerate(_elements(path, file), start=1):
            if not isinstance(value, dict):
                raise refused(path, f"row {number:,} is no object.", hint="Write a list of objects.")
            yield Placed(f"row {number:,}", value)


def _elements(path: Path, file: IO[str]) -> Iterator[Any]:
    """What stands in the list, each decoded once its text is whole; holds one element and a piece of the file."""
    text, number, decoder, wanted = file.read(_PIECE).lstrip()[1:], 1, json.JSONDecoder(), _PIECE
    while True:
        text = text.lstrip()
        if text.startswith("]"):
            return
        try:
            value, end = decoder.raw_decode(text)
        except (ValueError, RecursionError) as error:
            piece = file.read(wanted) if len(text) <= MAX_ROW_BYTES else ""
            if not piece:
                raise refused(
                    path, f"row {number:,} is broken ({error}).", hint="Correct it: it is no JSON."
                ) from error
            text, wanted = text + piece, 2 * wanted  # doubling: a long element is decoded a few times, not hundreds
            continue
        number, wanted = number + 1, _PIECE
        yield value
        text = _behind_comma(path, text[end:], file, number=number)


def _behind_comma(path: Path, text: str, file: IO[str], *, number: int) -> str:
    text = text.lstrip() or file.read(_PIECE).lstrip()
    if text.startswith(","):
        return text[1:]
    if text.startswith("]"):
        return text
    raise refused(path, f"there is no comma before row {number:,}, or the list has no end.", hint="Correct the list.")


def _of_parquet(path: Path) -> Iterator[Placed]:
    if importlib.util.find_spec("pyarrow") is None:
        raise refused(path, "Parquet needs a library.", hint="pip install 'tunesmith[data]'")
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    number = 0
    try:
        with ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=256):
                for record in batch.to_pylist():
                    number += 1
                    yield Placed(f"row {number:,}", record)
    except (ArrowException, OSError) as error:
        raise refused(path, f"damaged behind row {number:,} ({error}).", hint="Write the file again.") from error
