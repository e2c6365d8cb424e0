"""`python -m benchmarks.error_codes [--page FILE]`: the table of error codes for docs/, and where each is raised."""

import argparse
import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from benchmarks.pages import page, paragraph, table
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import Category

ROOT = Path(__file__).parents[1]
CODES = ROOT / "tuning" / "codes.py"
FOLDERS = ("tuning", "service", "worker", "cli", "local")
JOB_FAILURE, COMMAND, ENGINE = "job failure", "the command", "the engine"
_OF_USERS = ("user_error", "UnusableRow")  # in the trainer: a failure of the job that its user can mend
_OF_PROGRAMS = ("_refuse", "_end")  # in the trainer's programs that the command runs
_CODE_FIRST = ("user_error", "_refuse")  # take the code as their first argument
_ANSWERED_FOR = ("worker", "inference")  # the service passes its refusals on
_AT_ITS_START = "engine_kinds.py"  # whose errors end the program before it answers anybody
_HTTP_FOLDERS = ("tuning", "service")  # whose errors become answers of the API
_ENGINE_FOLDER = ROOT / "worker" / "inference" / "engine"  # whose refusals carry the status of their own answer


@dataclass(frozen=True)
class Raised:
    """One place that raises a code: what meets it, whose failure it is, and whether trying again can help if known."""

    code: ErrorCode
    met_as: str
    category: str = ""
    may_retry: bool | None = None


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.error_codes", description=__doc__)
    parser.add_argument("--page", type=Path, help="write the page of docs/ here")
    options = parser.parse_args()
    print(f"{len(ErrorCode)} error codes")
    if options.page:
        options.page.write_text(error_page(), encoding="utf-8")


def error_page() -> str:
    """The whole page."""
    raised = all_raised()
    header = ("code", "met as", "category", "can a retry help", "meaning", "what to do")
    return page(
        "Error codes",
        paragraph(
            f"""Written by `make error-codes` from `tuning/codes.py` and the places that raise: {len(ErrorCode)} codes.
            A code keeps its meaning from version to version, the words of a message may change. The API answers
            `{{"error": {{"message", "type", "param", "code", "hint"}}}}`. A job that failed has `code`, `message` and
            `param` under `error`, and `category`, `retryable` and `hint` under `tunesmith.failure`."""
        ),
        paragraph(
            f"""A worker may find only at a job what the API refuses in a request: the job then ends with the code of
            the request and the category `{Category.USER_ERROR}`. The command meets the codes of requests too, where it
            plans by itself. A retry of a job is the service's own, within its attempts; one of a request is the
            caller's."""
        ),
        table(header, (_row(code, [found for found in raised if found.code is code]) for code in ErrorCode)),
    )


def _row(code: ErrorCode, raised: list[Raised]) -> tuple[str, ...]:
    meaning, advice = meanings()[code.name]
    met_as = sorted({found.met_as for found in raised})
    categories = sorted({f"`{found.category}`" for found in raised if found.category})
    return f"`{code}`", ", ".join(met_as), ", ".join(categories), _retry(raised), meaning, advice


def _retry(raised: list[Raised]) -> str:
    answers = {found.may_retry for found in raised} - {None}
    if len(answers) < 2:
        return "yes" if True in answers else "no" if answers else ""
    return " and ".join(sorted({f"as {found.met_as}" for found in raised if found.may_retry}))


@cache
def meanings() -> dict[str, tuple[str, str]]:
    """By the name of a code, what happened and what to do: the first sentence of the text below it, and the rest."""
    found = {}
    (enum,) = (node for node in _classes(CODES) if node.name == ErrorCode.__name__)
    for member, text in zip(enum.body, enum.body[1:], strict=False):
        match member, text:
            case ast.Assign(targets=[ast.Name(id=name)]), ast.Expr(value=ast.Constant(value=str() as words)):
                meaning, _, advice = words.partition(". ")
                found[name] = (f"{meaning}.", advice)
    return found


def all_raised() -> list[Raised]:
    """Every place of the program that raises a code."""
    return [found for path in sources() for found in _raised_in(path)]


def sources() -> list[Path]:
    """The modules of the program."""
    return [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]


def modules() -> dict[str, ast.Module]:
    """The syntax trees of the program, by their path in the repository."""
    return {str(path.relative_to(ROOT)): _tree(path) for path in sources()}


def strings_for_codes(tree: ast.AST) -> list[int]:
    """Lines that give or compare a code as a string, or by a constant of their own, instead of by `ErrorCode`."""
    nodes = list(ast.walk(tree))
    return [
        value.lineno
        for given in (*_given_codes(nodes), *_compared_codes(nodes))
        for value in _alternatives(given)
        if (isinstance(value, ast.Constant) and isinstance(value.value, str))
        or (isinstance(value, ast.Name) and value.id.isupper())
    ]


def _raised_in(path: Path) -> Iterator[Raised]:
    parts = path.relative_to(ROOT).parts
    folder = "service" if parts[:2] == _ANSWERED_FOR and parts[2] != _AT_ITS_START else parts[0]
    for node in _nodes(path):
        if not isinstance(node, ast.ClassDef | ast.Call):
            continue
        for value in _codes_of(node):
            for name in _members_in(value):
                is_refusal = _ENGINE_FOLDER in path.parents and _called_or_named(node) not in (*_OF_USERS, "Failure")
                yield (Raised(ErrorCode[name], ENGINE) if is_refusal else _raised(ErrorCode[name], node, folder=folder))


def _raised(code: ErrorCode, node: ast.ClassDef | ast.Call, *, folder: str) -> Raised:
    """By whom the code is given: a class of errors or a call of one, or a function that makes failures."""
    name = _called_or_named(node)
    if name in _OF_USERS:
        return Raised(code, JOB_FAILURE, Category.USER_ERROR, may_retry=False)
    if name == "Failure":
        assert isinstance(node, ast.Call)
        return Raised(code, JOB_FAILURE, _category(node), may_retry=_is_retryable(node))
    status = _http_status(name)
    if status is None or folder not in _HTTP_FOLDERS:
        assert status is not None or name in _OF_PROGRAMS, f"{name} gives {code}, and nothing says who meets it"
        return Raised(code, COMMAND)
    return Raised(code, f"HTTP {status}", may_retry=status >= 500 or status in (408, 429) or name == "Conflict")


def _given_codes(nodes: list[ast.AST]) -> Iterator[ast.expr]:
    for node in nodes:
        if isinstance(node, ast.ClassDef | ast.Call | ast.Dict):
            yield from _codes_of(node)


def _codes_of(node: ast.ClassDef | ast.Call | ast.Dict) -> list[ast.expr]:
    """What a class, a call or a dictionary gives as `code`."""
    if isinstance(node, ast.ClassDef):
        return [value for target, value in _assigned(node) if target == "code"]
    if isinstance(node, ast.Dict):
        return [value for key, value in zip(node.keys, node.values, strict=True) if _is_code(key)]
    first = node.args[:1] if _called(node) in _CODE_FIRST else []
    return [*(keyword.value for keyword in node.keywords if keyword.arg == "code"), *first]


def _compared_codes(nodes: list[ast.AST]) -> Iterator[ast.expr]:
    for node in nodes:
        if isinstance(node, ast.Compare) and any(
            (isinstance(side, ast.Attribute) and side.attr == "code")
            or (isinstance(side, ast.Subscript) and _is_code(side.slice))
            for side in (node.left, *node.comparators)
        ):
            sides = (node.left, *node.comparators)
            yield from (side for side in sides if not (_is_in(node) and isinstance(side, ast.Name)))  # some members


def _is_in(node: ast.Compare) -> bool:
    return isinstance(node.ops[0], ast.In | ast.NotIn)


def _alternatives(value: ast.expr) -> Iterator[ast.expr]:
    if isinstance(value, ast.IfExp):
        yield from (*_alternatives(value.body), *_alternatives(value.orelse))
    elif isinstance(value, ast.BoolOp):
        yield from (found for part in value.values for found in _alternatives(part))
    else:
        yield value


def _members_in(value: ast.expr) -> list[str]:
    return [
        found.attr
        for found in _alternatives(value)
        if isinstance(found, ast.Attribute) and isinstance(found.value, ast.Name) and found.value.id == "ErrorCode"
    ]


def _is_code(key: ast.expr | None) -> bool:
    return isinstance(key, ast.Constant) and key.value == "code"


def _called_or_named(node: ast.ClassDef | ast.Call) -> str:
    return node.name if isinstance(node, ast.ClassDef) else _called(node)


def _called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def _category(failure: ast.Call) -> str:
    for keyword in failure.keywords:
        if keyword.arg == "category" and isinstance(keyword.value, ast.Attribute) and keyword.value.attr.isupper():
            return Category[keyword.value.attr]
    return ""


def _is_retryable(failure: ast.Call) -> bool:
    values = [keyword.value for keyword in failure.keywords if keyword.arg == "retryable"]
    return any(isinstance(value, ast.Constant) and value.value is True for value in values)


def _http_status(name: str) -> int | None:
    """Of a class of errors: its own or that of a class it stands on; None for what is no error of ours."""
    node = _errors().get(name)
    if node is None:
        return None
    for target, value in _assigned(node):
        if target == "http_status" and isinstance(value, ast.Constant):
            return int(value.value)
    return next((status for base in node.bases if (status := _http_status(getattr(base, "id", ""))) is not None), None)


@cache
def _errors() -> dict[str, ast.ClassDef]:
    return {node.name: node for path in sources() for node in _classes(path)}


def _classes(path: Path) -> list[ast.ClassDef]:
    return [node for node in _nodes(path) if isinstance(node, ast.ClassDef)]


def _assigned(node: ast.ClassDef) -> Iterator[tuple[str, ast.expr]]:
    for statement in node.body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=target)], value=value):
                yield target, value
            case ast.AnnAssign(target=ast.Name(id=target), value=ast.expr() as value):
                yield target, value


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def _nodes(path: Path) -> tuple[ast.AST, ...]:
    """All nodes of a file: walking 500 files takes longer than to parse them."""
    return tuple(ast.walk(_tree(path)))


if __name__ == "__main__":
    main()
