"""`python client_only.py < COMMANDS`: runs command lines where only the client is installed; prints how each ended."""

import contextlib
import io
import json
import sys
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any

INSTALLED = {
    "_yaml", "annotated_doc", "annotated_types", "anyio", "click", "h11", "httpcore2", "httpx2", "idna", "markdown_it",
    "mdurl", "pydantic", "pydantic_core", "pygments", "rich", "shellingham", "truststore", "typer",
    "typing_extensions", "typing_inspection", "yaml",
}  # fmt: skip


class ClientOnly:
    """Finds the standard library, this project, and what the client's installation brings; nothing else is there."""

    find_distributions = PathFinder.find_distributions  # packages read their own version

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or name.partition(".")[0] in INSTALLED:
            return spec
        places = [spec.origin or "", *(spec.submodule_search_locations or [])]
        return None if any("site-packages" in place for place in places) else spec


def ended(program: str, words: list[str]) -> tuple[object, str]:
    """Exit code and stderr; a traceback's last line where it came to that."""
    from tunesmith.local import main, programs

    run = {"tunesmith": lambda: main.main(words), "service": programs.service, "worker": programs.worker}[program]
    told = io.StringIO()
    sys.argv = [program, *words]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(told):
        try:
            code: object = run()
        except SystemExit as leaving:
            code = leaving.code
        except BaseException as error:
            code = f"{type(error).__name__}: {error}"
    return code, told.getvalue()


if __name__ == "__main__":
    sys.meta_path = [
        finder for finder in sys.meta_path if finder is not PathFinder and "editable" not in str(finder).lower()
    ]
    sys.meta_path.append(ClientOnly)  # type: ignore[arg-type]
    print(json.dumps([ended(*command) for command in json.load(sys.stdin)]))
