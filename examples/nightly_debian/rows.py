"""Rows of one night: the section of Debian packages, from name and summary.   rows.py NIGHT > rows.jsonl

Every night a tenth more of the packages is known: of those whose source's hash is odd. The others are held out, the
same ones every night:   rows.py held-out > held_out.jsonl
"""

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator

SECTIONS = ("database", "editors", "games", "mail", "math", "sound", "video", "web")
SLICES = 10
HELD_OUT_ROWS = 400


def packages() -> Iterator[dict[str, str]]:
    index = subprocess.run(["apt-cache", "dumpavail"], capture_output=True, check=True).stdout.decode(errors="replace")
    for entry in index.split("\n\n"):
        lines = (line.partition(": ") for line in entry.splitlines() if not line.startswith(" "))
        fields = {key: value for key, _, value in lines}
        section = fields.get("Section", "").rpartition("/")[2]
        if section in SECTIONS and fields.get("Description"):
            source = (fields.get("Source") or fields["Package"]).split()[0]
            yield {**fields, "Section": section, "Source": source}


def number_of(package: dict[str, str]) -> int:
    return int(hashlib.sha256(package["Source"].encode()).hexdigest()[:8], 16)


def row(package: dict[str, str]) -> dict[str, str]:
    prompt = f"Package: {package['Package']}\nSummary: {package['Description']}\nSection:"
    return {"prompt": prompt, "completion": f" {package['Section']}"}


def rows_of(night: str) -> Iterator[dict[str, str]]:
    ordered = sorted(packages(), key=number_of)
    if night == "held-out":
        return (row(one) for one in [one for one in ordered if number_of(one) % 2 == 0][:HELD_OUT_ROWS])
    return (row(one) for one in ordered if number_of(one) % 2 and number_of(one) // 2 % SLICES < int(night))


if __name__ == "__main__":
    for one in rows_of(sys.argv[1]):
        print(json.dumps(one))
