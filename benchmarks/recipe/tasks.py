"""Two real tasks whose rows every Debian machine has: what a function does, and which section a package is in."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.quality import packages
from tunesmith.local.demo import dataset
from tunesmith.tuning.job import DatasetFacts

Row = dict[str, Any]


def docstrings(training_rows: int, held_out_rows: int) -> tuple[list[Row], list[Row]]:
    """A function of the standard library -> the first line of its docstring; no module is on both sides."""
    split = dataset.build(training_rows=training_rows, held_out_rows=held_out_rows)
    return [example.row() for example in split.training], [example.row() for example in split.held_out]


def sections(training_rows: int, held_out_rows: int) -> tuple[list[Row], list[Row]]:
    """A package's name and summary -> its section; no source package is on both sides.

    Raises:
        NoPackageIndex: the machine has no package index.
    """
    index = packages.read_index()
    split = packages.split(index, training_rows=training_rows, held_out_rows=held_out_rows)
    return [packages.row_of(one) for one in split.training], [packages.row_of(one) for one in split.held_out]


TASKS: dict[str, Callable[[int, int], tuple[list[Row], list[Row]]]] = {"docstrings": docstrings, "sections": sections}


def write(folder: Path, name: str, *, training_rows: int, held_out_rows: int) -> None:
    """The task's two files, once: what is compared must be the same rows."""
    folder.mkdir(parents=True, exist_ok=True)
    for file, rows in zip(files_of(folder, name), TASKS[name](training_rows, held_out_rows), strict=True):
        if not file.exists():
            file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def files_of(folder: Path, name: str) -> tuple[Path, Path]:
    """Where the rows to train on and those to measure on are."""
    return folder / f"{name}.training.jsonl", folder / f"{name}.held-out.jsonl"


def facts(training: Path, held_out: Path, *, model: Path) -> DatasetFacts:
    """The counts, by the product's own tokenisation."""
    from tunesmith.worker.train.data.rows import exact_facts, load_rows
    from tunesmith.worker.train.models.model import load_tokenizer

    tokenizer = load_tokenizer(model)
    rows, measured = (
        load_rows(path, tokenizer=tokenizer, objective="supervised", max_sequence_length=1 << 20)
        for path in (training, held_out)
    )
    blank = DatasetFacts(rows=1, validation_rows=len(measured), tokens=1, longest_row_tokens=1, supervised_tokens=1)
    return exact_facts(rows, planned=blank)
