"""The run as JUnit XML, which every pipeline shows."""

import re
from pathlib import Path
from xml.etree import ElementTree as ET

from tunesmith.cli.ci.ending import Ending, Step

_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write_junit(path: Path, ending: Ending) -> None:
    """One suite with a case for each step."""
    steps = list(ending.steps)
    suite = ET.Element(
        "testsuite",
        name="tunesmith",
        tests=str(len(steps)),
        failures=str(sum(step.state == "failed" for step in steps)),
        skipped=str(sum(step.state == "skipped" for step in steps)),
        errors="0",
        time=f"{sum(step.seconds for step in steps):.3f}",
    )
    for step in steps:
        _add(suite, step)
    ET.SubElement(suite, "system-out").text = _clean(ending.headline)
    path.parent.mkdir(parents=True, exist_ok=True)
    ET.ElementTree(suite).write(path, encoding="utf-8", xml_declaration=True)


def _add(suite: ET.Element, step: Step) -> None:
    case = ET.SubElement(suite, "testcase", classname="tunesmith", name=step.name, time=f"{step.seconds:.3f}")
    if step.state == "failed":
        first = step.message.partition("\n")[0]
        ET.SubElement(case, "failure", message=_clean(first)).text = _clean(step.message)
    elif step.state == "skipped":
        ET.SubElement(case, "skipped")


def _clean(text: str) -> str:
    """Without what XML cannot carry, such as the colours of a log."""
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)
