"""`tunesmith schedules`: what a person types, and what a pipeline reads."""

import json
import re
from datetime import timedelta
from pathlib import Path

import pytest

from tests.command import Run, in_process
from tests.service.nightly.nights import PROD, Nights

YAML = """
name: nightly
cron: "30 2 * * mon-fri"
timezone: Europe/Berlin
data: {filename: rows.jsonl}
job:
  model: tiny-llama
  suffix: night
  tunesmith: {goal: quality}
alias: ft:support@prod
promotion: on_verdict
"""


@pytest.fixture
def run(nights: Nights) -> Run:
    """The command, connected to this service."""
    return in_process({"TUNESMITH_URL": nights.plane.url, "TUNESMITH_API_KEY": nights.plane.keys["member"]})


def test_a_file_makes_a_schedule_and_options_take_the_place_of_what_it_says(
    nights: Nights, run: Run, tmp_path: Path
) -> None:
    (tmp_path / "nightly.yaml").write_text(YAML)
    created = run("schedules", "create", tmp_path / "nightly.yaml", "--cron", "45 2 * * *")
    assert created.returncode == 0, created.stderr
    settings = nights.schedule()["settings"]
    assert (settings["cron"], settings["timezone"]) == ("45 2 * * *", "Europe/Berlin")
    assert settings["job"]["tunesmith"]["goal"] == "quality"
    assert run("schedules", "create", tmp_path / "nightly.yaml").returncode == 7, "another one has the name"
    assert run("schedules", "create", tmp_path / "nightly.yaml", "--replace").stdout == created.stdout
    assert nights.schedule()["settings"]["cron"] == "30 2 * * mon-fri"


def test_options_alone_make_one_and_mistakes_are_told_with_the_field(nights: Nights, run: Run, tmp_path: Path) -> None:
    words = ("schedules", "create", "--name", "by-hand", "--cron", "0 3 * * *", "--model", "tiny-llama")
    assert run(*words, "--metadata", "dataset=support").returncode == 0
    assert nights.schedule("by-hand")["settings"]["data"]["metadata"] == {"dataset": "support"}
    refused = run(*words, "--filename", "x", "--timezone", "Europe/Berln")
    assert (refused.returncode, "Europe/Berln" in refused.stderr) == (7, True)
    broken = {"broken.yaml": "a: [1", "broken.json": "{", "list.json": "[]"}
    for name, text in broken.items():
        (tmp_path / name).write_text(text)
        told = run("schedules", "create", tmp_path / name)
        assert (told.returncode, name in re.sub(r"[│\s]", "", told.stderr)) == (2, True), told
    numbers = ("schedules", "verdict", "by-hand", "firing-1", "better", "--numbers", tmp_path / "broken.json")
    assert run(*numbers).returncode == 2
    assert run("schedules", "create", "--replace", "--cron", "0 4 * * *").returncode == 2


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("bomb.yaml", BOMB.encode(), "More than 2,000 values"),
        ("deep.yaml", b"[" * 200, "Nested deeper"),
        ("latin.yaml", b"name: ok\nmodel: caf\xe9\n", "latin.yaml:2: not UTF-8"),
        ("large.json", b" " * 70_000, "more than 64 KiB"),
        ("deep.json", b"[" * 60_000, "deep.json"),
        ("job.yaml", b"job: [1]\n", "its job is no object"),
    ],
)
def test_a_file_that_is_no_schedule_is_refused_before_anything_is_sent(
    nights: Nights, run: Run, tmp_path: Path, name: str, content: bytes, told: str
) -> None:
    (tmp_path / name).write_bytes(content)
    refused = run("schedules", "create", tmp_path / name, "--model", "tiny-llama", env={"COLUMNS": "200"})
    assert (refused.returncode, told in refused.stderr) == (2, True), refused


def test_a_night_is_followed_and_judged_from_the_command_line(nights: Nights, run: Run, tmp_path: Path) -> None:
    nights.upload()
    nights.create(alias=PROD, promotion="on_verdict")
    assert run("schedules", "pause", "nightly").stderr.strip().endswith("paused")
    assert run("schedules", "resume", "nightly").returncode == 0
    firing_id = run("schedules", "run", "nightly", "--force").stdout.strip()
    nights.sweep(after=timedelta(minutes=1))
    model = nights.train()
    history = run("schedules", "history", "nightly")
    assert (firing_id in history.stdout, "awaiting_verdict" in history.stdout) == (True, True)
    (tmp_path / "numbers.json").write_text('{"exact_match": 0.81}')
    judged = run("schedules", "verdict", "nightly", firing_id, "better", "--numbers", tmp_path / "numbers.json")
    assert (judged.returncode, judged.stdout.strip(), nights.alias()) == (0, "promoted", model)
    (shown,) = json.loads(run("schedules", "history", "nightly", "-o", "json").stdout)
    assert shown["verdict"]["numbers"] == {"exact_match": 0.81}
    assert "promoted" in run("schedules", "ls").stdout
    assert "next" in run("schedules", "show", "nightly").stdout
    assert run("schedules", "rm", "nightly").returncode == 0
    assert run("schedules", "show", "nightly").returncode == 10


def test_a_verdict_that_refuses_fails_the_build(nights: Nights, run: Run) -> None:
    nights.upload()
    nights.create(alias=PROD, promotion="on_verdict")
    firing = nights.next_night()
    nights.train()
    refused = run("schedules", "verdict", "nightly", firing["id"], "not_better", "--reason", "2 points worse")
    assert (refused.returncode, refused.stdout.strip(), refused.stderr.strip()) == (6, "refused", "2 points worse")


def test_a_file_is_labelled_for_schedules_when_it_is_added(nights: Nights, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "1 + 1?", "completion": "2"}\n' * 4)
    added = run("files", "add", path, "--metadata", "dataset=support", "--metadata", "night=1")
    assert added.returncode == 0, added.stderr
    assert nights.get("/v1/files")["data"][0]["tunesmith"]["metadata"] == {"dataset": "support", "night": "1"}
