"""The pages of the project hold together: links lead somewhere, files that are named exist, paragraphs stay short."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PAGES = (*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")))
CODE_FOLDERS = ("tuning", "service", "worker", "cli", "local", "benchmarks")
FOLDERS = (*CODE_FOLDERS, "tunesmith", "tests", "docs", "migrations", "deploy", "examples")
LONGEST_LINE, LONGEST_PARAGRAPH, LONGEST_GLOSSARY_TABLE = 100, 6, 130

_CODE_BLOCK = re.compile(r"^( *)```.*?^\1```$", re.M | re.S)
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_LINK_WITH_NAME = re.compile(r"\]\(([^)\s]+\.py)\)\s+`([\w.]+)`")
_CODE = re.compile(r"`([^`\n]+)`")
_HEADING = re.compile(r"^#{1,6} +(.+)$", re.M)
_LIST_ITEM = re.compile(r" *([-*]|\d+\.) ")
_NOT_PROSE = re.compile(r"( {0,3}\||#|<!--| {4})")
_MODULE = re.compile(r"(?:tunesmith\.)?((?:tuning|service|worker|cli|local|benchmarks)(?:\.[a-zA-Z_]\w*)+)")


class Place(NamedTuple):
    """A line of a page; reads in a failure as an editor opens it."""

    page: Path
    line: int
    text: str

    def __repr__(self) -> str:
        return f"{self.page.name}:{self.line}: {self.text}"


# --- what a page says -------------------------------------------------------------------------------------------------


def without_code_blocks(text: str) -> str:
    """The page with as many lines, those of code blocks empty."""
    return _CODE_BLOCK.sub(lambda block: "\n" * block.group().count("\n"), text)


def prose_lines(text: str) -> Iterator[tuple[int, str]]:
    """Number and text of every line that is neither of a table, of a heading nor of code."""
    for number, line in enumerate(without_code_blocks(text).splitlines(), start=1):
        if line.strip() and (not _NOT_PROSE.match(line) or _is_continuation(line)):
            yield number, line


def _is_continuation(line: str) -> bool:
    return line.startswith("    ") and bool(_LIST_ITEM.match(line))


def long_lines(page: Path) -> list[Place]:
    lines = prose_lines(page.read_text(encoding="utf-8"))
    return [Place(page, number, line) for number, line in lines if len(line) > LONGEST_LINE]


def long_paragraphs(page: Path) -> list[Place]:
    """Where each begins. An item of a list is a paragraph of its own."""
    found, begin, length, before = [], 0, 0, -1
    for number, line in (*prose_lines(page.read_text(encoding="utf-8")), (10**9, "")):
        if number == before + 1 and not _LIST_ITEM.match(line):
            length += 1
        else:
            if length > LONGEST_PARAGRAPH:
                found.append(Place(page, begin, f"{length} lines"))
            begin, length = number, 1
        before = number
    return found


def links(page: Path) -> Iterator[Place]:
    """Relative ones."""
    text = _CODE.sub(lambda code: " " * len(code.group()), without_code_blocks(page.read_text(encoding="utf-8")))
    for match in _LINK.finditer(text):
        if not re.match(r"[a-z]+:", match.group(1)):
            yield Place(page, text.count("\n", 0, match.start()) + 1, match.group(1))


def anchors(page: Path) -> set[str]:
    """Of the headings, as GitHub makes them."""
    headings = _HEADING.findall(without_code_blocks(page.read_text(encoding="utf-8")))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def leads_somewhere(link: Place) -> bool:
    path, _, anchor = link.text.partition("#")
    target = (link.page.parent / path).resolve() if path else link.page
    return target.exists() and (not anchor or anchor in anchors(target))


def names_behind_links(page: Path) -> Iterator[tuple[Path, str]]:
    """A source file, and the name between backticks that stands behind the link to it."""
    for match in _LINK_WITH_NAME.finditer(without_code_blocks(page.read_text(encoding="utf-8"))):
        yield (page.parent / match.group(1)).resolve(), match.group(2).split(".")[-1]


def named_files(page: Path) -> Iterator[Place]:
    """What stands between backticks and looks like a file, a folder or a module of the repository."""
    for number, line in enumerate(without_code_blocks(page.read_text(encoding="utf-8")).splitlines(), start=1):
        for text in _CODE.findall(line):
            is_ours = text.split("/")[0] in FOLDERS and "/" in text and re.fullmatch(r"[\w./-]+", text)
            if is_ours or re.fullmatch(r"[\w./-]+\.py", text) or _MODULE.fullmatch(text):
                yield Place(page, number, text)


def exists(named: Place) -> bool:
    module = _MODULE.fullmatch(named.text)
    if module and not named.text.endswith(".py"):
        return is_module_or_member(module.group(1)) or is_logged(named.text)
    if "/" not in named.text:
        return any(any((ROOT / folder).rglob(named.text)) for folder in (*CODE_FOLDERS, "tests", "migrations"))
    return (ROOT / named.text).exists()


def is_logged(event: str) -> bool:
    """Whether a line of the log is called so."""
    return any(f'"{event}"' in path.read_text(encoding="utf-8") for path in (ROOT / "worker").rglob("*.py"))


def is_module_or_member(name: str) -> bool:
    """Whether a dotted name is a module, or a name that its module's text holds."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        path = ROOT.joinpath(*parts[:count])
        source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if source.exists():
            text = source.read_text(encoding="utf-8")
            return all(re.search(rf"\b{part}\b", text) for part in parts[count:])
    return False


def glossary_rows() -> Iterator[tuple[str, str]]:
    """Term and place of every row."""
    for line in (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 3 and cells[2].startswith("`"):
            yield cells[0], cells[2]


def holds(path: Path, name: str) -> bool:
    sources = [path] if path.is_file() else sorted(path.rglob("*.py"))
    return any(re.search(rf"\b{re.escape(name)}\b", source.read_text(encoding="utf-8")) for source in sources)


def defines(source: Path, name: str) -> bool:
    """Whether a file has a function or a class of this name."""
    text = source.read_text(encoding="utf-8") if source.is_file() else ""
    return re.search(rf"\b(def|class) {re.escape(name)}\b", text) is not None


def packages() -> list[Path]:
    found = (init for folder in CODE_FOLDERS for init in (ROOT / folder).rglob("__init__.py"))
    return [ROOT / "tunesmith" / "__init__.py", *sorted(found)]


def sentences(source: str) -> int:
    """How many the docstring of a module has."""
    text = ast.get_docstring(ast.parse(source)) or ""
    return len(re.findall(r"[.!?](?=\s|$)", re.sub(r"`[^`]*`", "code", text)))


# --- what is asked of it ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
class TestEveryPage:
    def test_has_no_line_over_100_columns(self, page: Path) -> None:
        assert not long_lines(page)

    def test_has_no_paragraph_over_six_lines(self, page: Path) -> None:
        assert not long_paragraphs(page)

    def test_links_to_files_and_headings_that_exist(self, page: Path) -> None:
        assert not [link for link in links(page) if not leads_somewhere(link)]

    def test_names_files_and_modules_that_exist(self, page: Path) -> None:
        if page.name == "CHANGELOG.md":
            pytest.skip("history names what was")
        assert not [named for named in named_files(page) if not exists(named)]


def test_the_path_of_a_job_names_what_is_in_the_files_it_links_to() -> None:
    named = list(names_behind_links(ROOT / "docs" / "lifecycle.md"))
    assert len(named) > 15
    assert not [(path, name) for path, name in named if not defines(path, name)]


def test_every_promise_is_told_with_tests_that_exist() -> None:
    page = ROOT / "docs" / "guarantees.md"
    text = page.read_text(encoding="utf-8")
    assert re.findall(r"^## G(\d+)\. ", text, re.M) == [str(number) for number in range(1, 23)]
    proofs = [
        ((page.parent / match.group(1)).resolve(), name)
        for match in re.finditer(r"^\| \[[^\]]+\]\(([^)]+)\) \| (.+) \|$", text, re.M)
        for name in _CODE.findall(match.group(2))
    ]
    assert len(proofs) > 80
    assert not [(file, name) for file, name in proofs if not defines(file, name)]


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page.suffix == ".md" and page not in reached:
            reached.add(page)
            targets = ((page.parent / link.text.split("#")[0]).resolve() for link in links(page))
            waiting += [target for target in targets if target.is_file()]
    assert not [page for page in PAGES if page not in reached]


def test_the_glossary_fits_two_printed_pages() -> None:
    lines = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8").splitlines()
    assert 50 < sum(line.startswith("|") for line in lines) <= LONGEST_GLOSSARY_TABLE


def test_the_glossary_has_each_word_once() -> None:
    terms = [term for term, _ in glossary_rows()]
    assert len(terms) == len(set(terms)) > 50


def test_the_glossary_names_what_is_in_the_files_it_names() -> None:
    missing = []
    for term, place in glossary_rows():
        codes = _CODE.findall(place)
        paths = [ROOT / code for code in codes if "/" in code]
        names = [code for code in codes if "/" not in code]
        missing += [(term, name) for name in names if not any(holds(path, name) for path in paths)]
    assert not missing


@pytest.mark.parametrize("init", packages(), ids=lambda init: str(init.parent.relative_to(ROOT)))
def test_every_package_says_what_it_is_in_two_sentences(init: Path) -> None:
    assert sentences(init.read_text(encoding="utf-8")) >= 2


def test_decisions_are_numbered_without_a_gap() -> None:
    numbers = sorted(int(path.name[:4]) for path in (ROOT / "docs" / "decisions").glob("[0-9]*.md"))
    assert numbers == list(range(1, len(numbers) + 1))


# --- and that it can be refused ---------------------------------------------------------------------------------------


def page_of(folder: Path, text: str) -> Path:
    page = folder / "page.md"
    page.write_text(text, encoding="utf-8")
    return page


def test_a_long_line_is_found_in_prose_alone(tmp_path: Path) -> None:
    long = "word " * 21
    page = page_of(tmp_path, f"{long}\n\n| {long} |\n\n```\n{long}\n```\n\n    {long}\n")
    assert [place.line for place in long_lines(page)] == [1]


def test_a_long_paragraph_is_found_and_items_of_a_list_are_apart(tmp_path: Path) -> None:
    items = "".join(f"- item {number}\n" for number in range(9))
    page = page_of(tmp_path, f"{items}\n" + "line\n" * 7 + "\n- item\n" + "  more\n" * 6)
    assert [place.line for place in long_paragraphs(page)] == [11, 19]


def test_a_link_to_nothing_is_found(tmp_path: Path) -> None:
    page = page_of(tmp_path, "# A `b` heading\n\n[a](gone.md) [b](#a-b-heading) [c](#gone) [d](https://x.org)\n")
    assert [link.text for link in links(page) if not leads_somewhere(link)] == ["gone.md", "#gone"]


@pytest.mark.parametrize(
    "text", ["worker/gone.py", "gone.py", "tests/gone", "tuning.gone", "tunesmith.tuning.job.Gone", "docs/gone.md"]
)
def test_a_name_of_nothing_is_found(tmp_path: Path, text: str) -> None:
    page = page_of(tmp_path, f"See `{text}`.\n")
    assert [named.text for named in named_files(page) if not exists(named)] == [text]


@pytest.mark.parametrize("text", ["tuning/job.py", "job.py", "tuning.job.JobSpec", "tests/unit", "plan.json", "a/b"])
def test_names_of_something_and_of_nothing_of_ours_are_left_alone(tmp_path: Path, text: str) -> None:
    page = page_of(tmp_path, f"See `{text}`.\n")
    assert all(exists(named) for named in named_files(page))


def test_one_sentence_is_not_two() -> None:
    assert sentences('"""One, with `a.b`."""') == 1
    assert sentences('"""One.\n\nTwo.\n"""') == 2
