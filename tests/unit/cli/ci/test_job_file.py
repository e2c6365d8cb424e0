"""A job file is read strictly, and whatever is wrong with it is named by file and line."""

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from tests.command import Run
from tunesmith.cli.ci.job_file import JobFileRefused, load, schema
from tunesmith.cli.yaml_lines import NotReadable, read

ROOT = Path(__file__).parents[4]
GOOD = "model: my-base\ntraining_file: rows.jsonl\n"


def refused(tmp_path: Path, text: str | bytes) -> list[str]:
    path = tmp_path / "job.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(JobFileRefused) as error:
        load(path)
    assert all(problem.file == str(path) for problem in error.value.problems)
    return [str(problem).removeprefix(f"{tmp_path}/") for problem in error.value.problems]


def test_a_good_file_is_the_body_of_a_request_without_what_is_ours(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").touch()
    path = tmp_path / "job.yaml"
    path.write_text(
        f"{GOOD}validation_file: file-0192\nsuffix: 'no'\nseed: 7\n"
        "tunesmith: {learning_rate: 1e-4, lora: {rank: 8}}\ngate: {max_validation_loss: 2}\nchampion: ft:x\n"
    )
    loaded = load(path)
    assert loaded.job.gate.max_validation_loss == 2
    assert loaded.files == {"training_file": tmp_path / "rows.jsonl", "validation_file": "file-0192"}
    assert loaded.body == {
        "model": "my-base",
        "training_file": "rows.jsonl",
        "validation_file": "file-0192",
        "suffix": "no",
        "seed": 7,
        "tunesmith": {"learning_rate": 1e-4, "lora": {"rank": 8}},
    }


def test_every_problem_has_its_line_and_a_typo_what_was_meant(tmp_path: Path) -> None:
    ours = "tunesmith:\n  lora:\n    rnk: 4\n  goal: best\n"
    text = f"# a job\n{GOOD}sufix: x\nmetadata:\n  team: 3\n{ours}gate:\n  max_validation_loss: -1\n"
    assert refused(tmp_path, text) == [
        "job.yaml:4: sufix: unknown; did you mean 'suffix'?",
        "job.yaml:6: metadata.team: input should be a valid string.",
        "job.yaml:9: tunesmith.lora.rnk: unknown; did you mean 'rank'?",
        "job.yaml:10: tunesmith.goal: input should be 'balanced', 'quality', 'speed' or 'cost'.",
        "job.yaml:12: gate.max_validation_loss: input should be greater than 0.",
    ]


def test_what_is_missing_and_what_one_field_forbids_another_is_said(tmp_path: Path) -> None:
    assert refused(tmp_path, "model: a\n") == ["job.yaml:1: training_file: is missing."]
    assert refused(tmp_path, GOOD) == [f"job.yaml:2: training_file: there is no file {tmp_path}/rows.jsonl."]
    clash = (
        f"{GOOD}hyperparameters: {{n_epochs: 1}}\nmethod:\n  type: dpo\n  dpo: {{hyperparameters: {{n_epochs: 2}}}}\n"
    )
    assert "says something else" in refused(tmp_path, clash)[0]
    assert refused(tmp_path, clash)[0].startswith("job.yaml:3:")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: !!python/object/apply:os.system [id]", "job.yaml:1: The tag"),
        ("a: !!set {x}", "job.yaml:1: The tag"),
        ("a: 1\nb: 2\na: 3", "job.yaml:3: 'a' is here twice; first in line 1."),
        ("a: [b\nc: d", "job.yaml:2: Not YAML"),
        ("a: \t- b: c: d", "job.yaml:1: Not YAML"),
        ("a: &a [*a]", "job.yaml:1: Nested deeper"),
        ("[" * 50_000, "job.yaml: Nested deeper"),
        ("[" * 100 + "]" * 100, "job.yaml:1: Nested deeper"),
        ("- " * 30_000, "job.yaml: Nested deeper"),
        ("? " * 30_000, "job.yaml: Nested deeper"),
        ("? [a]\n: b", "job.yaml:1: A key is one word."),
        ("a: 1\n---\nb: 2", "job.yaml:2: Not YAML"),
        ("- a", "job.yaml:1: A job file is a mapping"),
        ("", "job.yaml: The file is empty."),
        (b"a: b\nc: \xff", "job.yaml:2: Not UTF-8."),
        ("a: \x00", "job.yaml: Not YAML"),
        ("# " + "x" * 70_000, "job.yaml: A job file has at most 64 KiB."),
        ("model: x\ntraining_file: '\\0'\nsuffix: .nan\nseed: 1e999", "job.yaml:4: seed"),
    ],
)
def test_what_is_no_job_file_is_refused_with_its_line(tmp_path: Path, text: str | bytes, problem: str) -> None:
    assert refused(tmp_path, text)[0].startswith(problem)


def test_aliases_count_as_often_as_they_are_used() -> None:
    layers = "".join(f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in ("ab", "bc", "cd"))
    with pytest.raises(NotReadable, match="More than 2,000 values"):
        read(f"a: &a [x, x]\n{layers}")


@pytest.mark.parametrize(
    ("text", "value"),
    [("no", "no"), ("on", "on"), ("true", True), ("010", 10), ("1e-4", 0.0001), ("2026-01-01", "2026-01-01"),
     ("~", None), ("", None), ("'1'", "1"), ("1_000", "1_000"), ("-3", -3), ("12:30", "12:30"), ("0x10", "0x10")],
)  # fmt: skip
def test_plain_words_mean_what_yaml_1_2_says(text: str, value: object) -> None:
    assert read(f"key: {text}").value == {"key": value}


def test_the_published_schema_is_that_of_the_models_and_takes_the_example(run: Run) -> None:
    published = json.loads((ROOT / "docs/job-file.schema.json").read_text(encoding="utf-8"))
    assert published == json.loads(run("ci", "schema").stdout) == schema()
    Draft202012Validator.check_schema(published)
    example = read((ROOT / "examples/job.yaml").read_text(encoding="utf-8")).value
    Draft202012Validator(published).validate(example)
    assert not Draft202012Validator(published).is_valid({**example, "sufix": "x"})


def test_a_bad_file_exits_with_7_and_is_annotated(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(f"{GOOD}sufix: a,b\n")
    ended = run("ci", "run", path, "--junit", tmp_path / "out.xml", env={"GITHUB_ACTIONS": "true"})
    assert ended.returncode == 7
    assert f"{path}:3: sufix: unknown; did you mean 'suffix'?" in ended.stderr
    assert ended.stdout == f"::error file={path},line=3::sufix: unknown; did you mean 'suffix'?\n"
    assert 'failures="1"' in (tmp_path / "out.xml").read_text()


def test_bad_rows_are_annotated_at_their_lines_before_anything_is_sent(run: Run, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "good"}\nnot json\n{"text": "good"}\n{"text": 5}\n')
    path = tmp_path / "job.yaml"
    path.write_text(GOOD)
    summary, outputs = tmp_path / "summary.md", tmp_path / "outputs"
    ci = {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(summary), "GITHUB_OUTPUT": str(outputs)}
    ended = run("ci", "run", path, env=ci)
    assert ended.returncode == 7
    lines = ended.stdout.splitlines()
    assert [line.partition("::")[2].partition("::")[0] for line in lines] == [
        f"error file={tmp_path}/rows.jsonl,line=2",
        f"error file={tmp_path}/rows.jsonl,line=4",
    ]
    assert "rows.jsonl` line 4: " in summary.read_text()
    assert "exit-code=7\n" in outputs.read_text()
