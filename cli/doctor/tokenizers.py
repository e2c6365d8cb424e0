"""The files of a model that turn text into tokens: from a folder here, or fetched from the service that has it."""

import importlib.util
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tunesmith.tuning.datasets.length_limits import LengthHistogram
from tunesmith.tuning.datasets.row_formats import Row
from tunesmith.tuning.datasets.row_sizes import size_of
from tunesmith.tuning.errors import InvalidRequest

MOST_COUNTED_ROWS = 20_000
_WEIGHTS = (".safetensors", ".safetensors.index.json")


@contextmanager
def tokenizer_folder(model: str) -> Iterator[Path]:
    """A folder with tokenizer, chat template and settings of a model, without its weights.

    Raises:
        InvalidRequest: the model has no tokenizer.json.
        ServiceError: the service does not know it.
    """
    if Path(model).is_dir():
        yield _with_tokenizer(Path(model), model)
        return
    with tempfile.TemporaryDirectory(prefix="tunesmith-tokenizer-") as folder:
        _fetch(model, Path(folder))
        yield _with_tokenizer(Path(folder), model)


class RowLengths:
    """Counts the tokens of the first rows that it is shown by a real tokenizer."""

    def __init__(self, folder: Path, *, most_rows: int = MOST_COUNTED_ROWS) -> None:
        if importlib.util.find_spec("tokenizers") is None:
            raise InvalidRequest("Counting tokens needs a library.", hint="pip install 'tunesmith[data]'")
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._most_rows = most_rows
        self.histogram = LengthHistogram()

    def see(self, row: Row) -> None:
        """Count a row, while there are not too many."""
        if self.histogram.rows < self._most_rows:
            self.histogram.add(size_of(row, tokens=self._count))

    def _count(self, text: str) -> int:
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids) if text else 0


def _with_tokenizer(folder: Path, model: str) -> Path:
    if not (folder / "tokenizer.json").is_file():
        raise InvalidRequest(
            f"{model} has no tokenizer.json.", param="--model", hint="name a folder or model that has one"
        )
    return folder


def _fetch(model: str, folder: Path) -> None:
    from tunesmith.cli.client import Client
    from tunesmith.cli.results.model_files import fetch_model_files

    with Client() as client:
        fetch_model_files(client, model, folder=folder, but=_WEIGHTS)
