"""examples/nightly_debian through the real service with the clock moved: five nights on the Debian package index.

In the first test the worker counts words (naive Bayes) in the trainer's place, which learns this task in a second: the
losses are real, and the night of the broken export is really worse. In the second a real worker trains and measures a
tiny model.
"""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.command import Run, in_process
from tests.control_plane import ControlPlane
from tests.service.nightly.nights import Nights
from tests.stack.worker import Worker
from tests.tiny_model import build_tiny_model
from tests.waiting import eventually
from tunesmith.cli.client import Client
from tunesmith.cli.connection import Connection
from tunesmith.cli.models.folder import inspect
from tunesmith.cli.models.register import register
from tunesmith.service.keeper.chores import deliver_outbox
from tunesmith.tuning.state import Outcome

FOLDER = Path(__file__).parents[3] / "examples" / "nightly_debian"
ALIAS = "ft:debian-sections@prod"
NAME = "debian-sections"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("apt-cache") is None, reason="the rows are Debian's own package index"),
]


@pytest.fixture(scope="module")
def exports() -> dict[str, bytes]:
    """What rows.py writes for each night, and for the rows held out."""
    script = "import json, sys; sys.path.insert(0, sys.argv[1]); import rows; known = list(rows.packages()); "
    script += "rows.packages = lambda: known; "
    script += "print(json.dumps({n: [json.dumps(r) for r in rows.rows_of(n)] for n in ('1', '2', '3', 'held-out')}))"
    done = subprocess.run([sys.executable, "-c", script, FOLDER], capture_output=True, text=True, check=True)
    exported = {night: "\n".join(rows).encode() + b"\n" for night, rows in json.loads(done.stdout).items()}
    if exported["1"].count(b"\n") < 100:
        pytest.skip("the package index of this machine is empty: apt-get update")
    return exported


@pytest.fixture
def run(nights: Nights) -> Run:
    return in_process({"TUNESMITH_URL": nights.plane.url, "TUNESMITH_API_KEY": nights.plane.keys["member"]})


def mislabelled(rows: bytes) -> bytes:
    """A broken export: each section is that of the row before."""
    parsed = [json.loads(line) for line in rows.splitlines()]
    wrong = [
        {**row, "completion": before["completion"]} for row, before in zip(parsed, parsed[-1:] + parsed, strict=False)
    ]
    return "".join(json.dumps(row) + "\n" for row in wrong).encode()


def held_out_loss(training: bytes, held_out: bytes) -> float:
    """Mean loss of the right section under naive Bayes over the words of the prompt."""
    words: defaultdict[str, Counter[str]] = defaultdict(Counter)
    sections: Counter[str] = Counter()
    for row in map(json.loads, training.splitlines()):
        sections[row["completion"]] += 1
        words[row["completion"]].update(set(re.findall(r"[a-z]+", row["prompt"].lower())))

    def loss(row: dict[str, str]) -> float:
        seen = set(re.findall(r"[a-z]+", row["prompt"].lower()))
        scores = {
            section: math.log(count) + sum(math.log((words[section][word] + 0.1) / (count + 1)) for word in seen)
            for section, count in sections.items()
        }
        highest = max(scores.values())
        total = highest + math.log(sum(math.exp(score - highest) for score in scores.values()))
        return min(total - scores.get(row["completion"], -math.inf), 10.0)

    rows = [json.loads(line) for line in held_out.splitlines()]
    return sum(map(loss, rows)) / len(rows)


def train(nights: Nights) -> None:
    """What a worker does, with words counted in the trainer's place."""
    attempt = nights.claim()
    files = [attempt.claim.training_file, attempt.claim.validation_file]
    training, held_out = (attempt.get(file.sha256).content for file in files if file)
    loss = held_out_loss(training, held_out)
    assert attempt.metrics([{"step": 1, "train_loss": loss, "valid_loss": loss}]).status_code == 204
    assert attempt.artifact().status_code == 204
    assert attempt.finish(Outcome.SUCCEEDED).status_code == 204
    nights.sweep()


def judge(nights: Nights) -> "subprocess.CompletedProcess[str]":
    key = {"TUNESMITH_URL": f"{nights.plane.url}/v1", "TUNESMITH_API_KEY": nights.plane.keys["member"]}
    command = [sys.executable, str(FOLDER / "judge.py"), NAME]
    return subprocess.run(command, env={**os.environ, **key}, capture_output=True, text=True, check=False)


def test_five_nights_end_promoted_promoted_skipped_refused_and_rolled_back(
    nights: Nights, exports: dict[str, bytes], run: Run, tmp_path: Path
) -> None:
    def add(rows: bytes, *words: str) -> str:
        (tmp_path / "rows.jsonl").write_bytes(rows)
        return str(run("files", "add", tmp_path / "rows.jsonl", *words).stdout.split()[0])

    def tonight(rows: bytes | None) -> dict[str, Any]:
        if rows is not None:
            add(rows, "--metadata", f"dataset={NAME}")
        firing = nights.next_night(name=NAME)
        if firing["state"] == "submitted":
            train(nights)
        return firing

    settings = yaml.safe_load((FOLDER / "schedule.yaml").read_text())
    settings["job"] |= {"model": "tiny-llama", "validation_file": add(exports["held-out"])}
    (tmp_path / "schedule.json").write_text(json.dumps(settings))
    assert run("schedules", "create", tmp_path / "schedule.json").returncode == 0

    tonight(exports["1"])
    assert judge(nights).returncode == 0
    tonight(exports["2"])
    assert judge(nights).returncode == 0
    champion = nights.get(f"/v1/aliases/{ALIAS}")["model"]
    tonight(None)
    tonight(mislabelled(exports["2"]))
    refused = judge(nights)
    assert (refused.returncode, refused.stdout.split()[0]) == (6, "refused"), refused
    assert nights.get(f"/v1/aliases/{ALIAS}")["model"] == champion
    tonight(exports["3"])
    assert judge(nights).returncode == 0
    assert run("aliases", "rollback", ALIAS, "--reason", "a customer complains").stdout.strip() == champion

    firings = nights.firings(NAME)
    assert [firing["state"] for firing in firings] == ["promoted", "promoted", "skipped", "refused", "promoted"]
    losses = [firing["verdict"]["numbers"]["loss"] for firing in firings if firing["verdict"]]
    assert losses[0] > losses[1] > losses[3], "more rows, a lower loss"
    assert losses[2] > losses[1] + 0.02, "the broken export is worse"
    changes = nights.get(f"/v1/aliases/{ALIAS}/history")["data"]
    assert [change["action"] for change in changes] == ["roll_back", "set", "set", "set"]
    assert [change["firing_id"] for change in changes[1:]] == [firings[4]["id"], firings[1]["id"], firings[0]["id"]]


@pytest.fixture
def worker(control_plane: ControlPlane, tmp_path: Path) -> Iterator[Worker]:
    """A real one, whose trainers are real."""
    environment = {
        **os.environ,
        "TUNESMITH_URL": control_plane.url,
        "TUNESMITH_WORKER_KEY": control_plane.keys["worker"],
        "OMP_THREAD_LIMIT": "1",
    }
    started = Worker("nightly", work_dir=tmp_path / "work", log=tmp_path / "worker.log", environment=environment)
    yield started
    started.kill()
    eventually(lambda: not started.trainers(), what="the end of its trainers")


def lines(rows: bytes, count: int) -> bytes:
    return b"\n".join(rows.splitlines()[:count]) + b"\n"


@pytest.mark.timeout(1800)
def test_five_nights_of_a_real_trainer_and_its_gate(
    nights: Nights, exports: dict[str, bytes], worker: Worker, run: Run, tmp_path: Path
) -> None:
    """A tiny model, so what it learns is little; that the broken export teaches it less is measured all the same."""
    texts = [" ".join(json.loads(row).values()) for row in exports["3"].splitlines()[:400]]
    folder = build_tiny_model(tmp_path / "sections-base", texts=texts, vocabulary_size=1024)
    connection = Connection(base_url=f"{nights.plane.url}/v1", api_key=nights.plane.keys["admin"])
    with Client(find=lambda: connection) as client:
        register(client, "sections-base", inspect(folder))
    nights.plane.upload(lines(exports["held-out"], 80), name="held-out.jsonl")
    nights.create(
        name=NAME,
        alias=ALIAS,
        promotion="on_verdict",
        gate={"rows": {"filename": "held-out.jsonl"}},
        job={
            "model": "sections-base",
            "seed": 1,
            "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 4, "batch_size": 8}}},
            "tunesmith": {"method": "full", "validation": "none"},
        },
    )

    def all_jobs_have_ended() -> bool:
        assert worker.process.poll() is None, worker.log.read_text()
        return nights.plane.sql("SELECT count(*) FROM jobs WHERE finished_at IS NULL") == [(0,)]

    def tonight(rows: bytes | None) -> dict[str, Any]:
        if rows is not None:
            nights.plane.upload(rows)
        nights.next_night(name=NAME)
        while nights.firings(NAME)[-1]["state"] in ("submitted", "awaiting_verdict"):
            nights.plane.keep(deliver_outbox)
            eventually(all_jobs_have_ended, seconds=600, what=lambda: worker.log.read_text()[-3000:])
            nights.sweep()
        return nights.firings(NAME)[-1]

    first = tonight(lines(exports["1"], 64))
    assert first["state"] == "promoted", first
    champion = nights.get(f"/v1/aliases/{ALIAS}")["model"]
    assert tonight(None)["state"] == "skipped"
    refused = tonight(mislabelled(lines(exports["1"], 64)))
    assert (refused["state"], nights.get(f"/v1/aliases/{ALIAS}")["model"]) == ("refused", champion), refused
    better = tonight(lines(exports["2"], 192))
    assert (better["state"], nights.get(f"/v1/aliases/{ALIAS}")["model"]) == ("promoted", better["model"]), better
    assert run("aliases", "rollback", ALIAS, "--reason", "a customer complains").stdout.strip() == champion
    assert tonight(None)["state"] == "skipped"

    for judged in (first, refused, better):
        (compared,) = [one for one in judged["verdict"]["numbers"]["comparisons"] if one["measure"] == "loss"]
        assert compared["rows"] == 80
    times = {report["trained"]: report for report in nights.get("/v1/schedule_reports")["data"]}
    assert times[1]["training_seconds"] > 0
    assert times[1]["startup_seconds"] > 0
