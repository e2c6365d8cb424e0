"""`python -m benchmarks.templates [--cache DIR] [--page FILE]`: our loss masks under real chat templates.

Prints a line for each template; `--page` writes docs/chat-templates.md. Exit code 1 when a mask differs from that of a
marked twin without a reason.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks.templates.conversations import CONVERSATIONS
from benchmarks.templates.report import UNEXPLAINED, result_of, templates_page
from benchmarks.templates.twins import templates


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.templates", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cache", type=Path, help="where the package with the templates lies or is put")
    parser.add_argument("--page", type=Path, help="write the page of docs/ here")
    options = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        known = templates(options.cache or Path(folder))
    for template in known:
        results.append(result_of(template))
        same = "no twin" if results[-1].same is None else f"{results[-1].same} as the twin"
        print(f"{template.name}: {same}, {results[-1].right} as published, of {len(CONVERSATIONS)}", flush=True)
    if options.page:
        options.page.write_text(templates_page(results), encoding="utf-8")
    return 1 if any(UNEXPLAINED in result.differences for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
