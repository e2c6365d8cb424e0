"""The counts as tables, beside those of the first review of this code."""

from collections.abc import Mapping, Sequence
from statistics import median

from benchmarks.house.measure import UNIT_WORDS, Function, Tree
from benchmarks.machine import setting
from benchmarks.pages import page, paragraph, table

LONG_FUNCTION_LINES = 60
FULL_FOLDER_FILES = 15
# Of commit 7fece67, 2026-11-23, by the review's own scripts, in the order of the columns.
FIRST_REVIEW = ("270", "27,300", "80 / 228", "6 / 22", "1", "100 %", "1.9 %", "13.2 %")


def summary(trees: Sequence[Tree], folders: Mapping[str, int]) -> str:
    """Both tables, for a terminal."""
    return f"{_sizes(trees)}\n\n{_docstrings(trees)}\n\n{_folders(folders)}"


def house_page(trees: Sequence[Tree], folders: Mapping[str, int]) -> str:
    """The page of docs/."""
    return page(
        "The house in numbers",
        paragraph(
            f"""Written by `make house`, {setting()}. Lines are those that are not blank; a function's lines include
            its docstring. The last row of the first table is what the first review of this code counted, before it
            had rooms; its scripts were others, so small differences say nothing."""
        ),
        _sizes(trees),
        paragraph(
            """Public functions with a docstring; and of those that take or give a plain number whose name has no unit,
            or that raise, how many name a unit, or the errors. Both go by words, and so are rough."""
        ),
        _docstrings(trees),
        paragraph(_folders(folders)),
        paragraph("Circles between modules or folders: none; `make lint` forbids them in every package."),
    )


def _sizes(trees: Sequence[Tree]) -> str:
    header = ("tree", "files", "lines", "file median / p95", "function median / p95", "over 60 lines")
    rows = [(tree.name, *_row(tree)) for tree in trees]
    return table((*header, "returns typed", "comments", "docstrings"), [*rows, ("*first review*", *FIRST_REVIEW)])


def _row(tree: Tree) -> tuple[str, ...]:
    files = [source.lines for source in tree.sources]
    functions = [function.lines for function in tree.functions]
    return (
        str(len(files)),
        f"{tree.lines:,}",
        f"{median(files):.0f} / {percentile(files, 95)}",
        f"{median(functions):.0f} / {percentile(functions, 95)}",
        str(sum(lines > LONG_FUNCTION_LINES for lines in functions)),
        f"{_share([function.returns_typed for function in tree.functions]):.0%}".replace("%", " %"),
        f"{tree.share('comment_lines') * 100:.1f} %",
        f"{tree.share('docstring_lines') * 100:.1f} %",
    )


def _docstrings(trees: Sequence[Tree]) -> str:
    rows = []
    for tree in trees:
        public = [function for function in tree.functions if function.is_public]
        told = [function for function in public if function.docstring]
        numbers = [_names_unit(function) for function in told if function.has_numbers]
        errors = ["Raises" in (function.docstring or "") for function in told if function.raises_errors]
        rows.append(
            (
                tree.name,
                len(public),
                *(_percent(values) for values in ([bool(f.docstring) for f in public], numbers, errors)),
            )
        )
    return table(
        ("tree", "public functions", "with a docstring", "units where they apply", "errors where they apply"), rows
    )


def _names_unit(function: Function) -> bool:
    return bool(UNIT_WORDS.search(function.docstring or ""))


def _folders(folders: Mapping[str, int]) -> str:
    fullest = max(folders, key=lambda folder: folders[folder])
    over = [folder for folder, number in folders.items() if number > FULL_FOLDER_FILES]
    beyond = f"over {FULL_FOLDER_FILES}: {', '.join(over)}" if over else f"none over {FULL_FOLDER_FILES}"
    return f"{len(folders)} folders; the fullest is `{fullest}` with {folders[fullest]} files, {beyond}."


def percentile(values: Sequence[int], percent: int) -> int:
    """The least value that so many percent do not exceed; 0 of none."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)] if ordered else 0


def _percent(values: Sequence[bool]) -> str:
    return f"{_share(values) * 100:.0f} %" if values else "none"


def _share(values: Sequence[bool]) -> float:
    return sum(values) / len(values) if values else 1.0
