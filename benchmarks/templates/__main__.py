"""`python -m benchmarks.templates [--cache DIR]`: the table of docs/chat-templates.md, printed as Markdown."""

import argparse
import tempfile
from collections import Counter
from pathlib import Path

from benchmarks.templates.compare import compare
from benchmarks.templates.conversations import CONVERSATIONS
from benchmarks.templates.differences import LINE_BREAK, explain
from benchmarks.templates.properties import marked, violations
from benchmarks.templates.twins import PACKAGE, Template, templates
from worker.train.data.chat import UnknownTurn
from worker.train.data.template import TemplateRefusal


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.templates", description=__doc__)
    parser.add_argument("--cache", type=Path, help="where the package with the templates lies or is put")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        known = templates(options.cache or Path(folder))
    print(f"Templates of {PACKAGE}, {len(CONVERSATIONS)} conversations each.\n")
    print("| template | same mask as the twin | not the same, why | as published: right | refused by the template |")
    print("|---|---|---|---|---|")
    for template in known:
        print(f"| {template.name} | {' | '.join([*_beside_twin(template), *_as_published(template)])} |")


def _beside_twin(template: Template) -> tuple[str, str]:
    if template.twin is None:
        return "no twin", ""
    same, reasons = 0, Counter[str]()  # a line break behind the end is no difference
    for conversation in CONVERSATIONS.values():
        comparison = compare(template, conversation)
        if comparison.refusal is not None:
            reasons[comparison.refusal] += 1
            continue
        why = explain(template.name, comparison)
        others = {"UNEXPLAINED"} if why is None else why - {LINE_BREAK}
        same += not others
        reasons.update(others)
    listed = "; ".join(f"{count}: {reason}" for reason, count in reasons.items())
    return f"{same} of {len(CONVERSATIONS)}", listed


def _as_published(template: Template) -> tuple[str, str]:
    found, refusals = 0, Counter[str]()
    for conversation in CONVERSATIONS.values():
        try:
            text = marked(template, conversation)
        except (TemplateRefusal, UnknownTurn) as refusal:
            refusals[str(refusal)] += 1
            continue
        found += not list(violations(text, conversation))
    return f"{found} of {len(CONVERSATIONS)}", "; ".join(f"{count}: {text}" for text, count in refusals.items())


if __name__ == "__main__":
    main()
