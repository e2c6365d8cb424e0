"""`tunesmith plan`, asked about hardware that is not there."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from tunesmith.cli.verbs import models
from tunesmith.cli.verbs import plan as verb
from tunesmith.tuning.errors import InvalidRequest, InvalidTrainingFile
from tunesmith.tuning.models.catalogue import CONFIGS


def run(*arguments: str) -> Result:
    app = typer.Typer()
    app.command()(verb.plan)
    return CliRunner().invoke(app, list(arguments))


def test_it_answers_for_every_machine_named() -> None:
    result = run("--model", "llama-3.1-8b", "--on", "1xRTX4090,8xA100-80G", "-o", "json")
    answers = json.loads(result.stdout)
    assert result.exit_code == 0
    assert [answer["hardware"] for answer in answers] == ["1xRTX4090", "8xA100-80G"]
    assert all(answer["fits"] and answer["plan"]["reasons"] for answer in answers)


def test_the_table_shows_peak_time_and_cost() -> None:
    result = run("--model", "llama-3.1-8b", "--on", "1xA10G", "--price", "1.2")
    header, row = result.stdout.splitlines()[:2]
    assert "PEAK / FREE GIB" in header
    assert "COST" in header
    assert row.startswith("1xA10G")
    assert "/ 22.0" in row


def test_what_is_assumed_of_rows_that_nobody_has_is_said() -> None:
    assert "Assumed: 500 tokens a row, half of them to learn, the longest row 2,000." in run_on("--rows", "900").stderr
    told = run_on("--tokens-per-row", "200000").stderr
    assert "Assumed: 131,072 tokens a row (200,000 are cut to that), half of them to learn" in told


def test_of_a_file_nothing_is_assumed(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"prompt": "What is it?", "completion": "It is this."}) + "\n")
    assert "Assumed" not in run_on(str(rows)).stderr


def test_a_length_that_cuts_rows_stands_beside_the_longest(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"prompt": "What is it?", "completion": "It is this. " * 200}) + "\n")
    assert re.search(
        r"longest row [\d,]+, to be cut at 128$", run_on(str(rows), "--max-seq-length", "128").stderr, re.M
    )
    refused = run_on(str(rows), "--max-seq-length", "128", "--on-long-row", "refuse").stderr
    assert re.search(r"longest row [\d,]+, and no more than 128 are taken$", refused, re.M)
    assert re.search(r"longest row [\d,]+$", run_on(str(rows)).stderr, re.M)


def test_preference_pairs_are_called_that() -> None:
    assert "; 900 preference pairs (90 held out)" in run_on("--rows", "900", "--beta", "0.1").stderr
    assert "; 900 rows (90 held out)" in run_on("--rows", "900").stderr


def run_on(*arguments: str) -> Result:
    return run("--model", "llama-3.1-8b", "--on", "1xH100", *arguments)


def test_nothing_that_fits_is_exit_code_7_with_the_numbers() -> None:
    result = run("--model", "llama-3.1-70b", "--on", "RTX4090")
    assert result.exit_code == 7
    assert "23.6 GiB are free on this RTX 4090" in result.output


def test_the_peak_of_a_refusal_is_that_of_the_method_that_misses_least() -> None:
    """QLoRA would need less, but PiSSA rules it out whatever is free."""
    refused = run("--model", "llama-3.1-8b", "--on", "RTX3060", "--init", "pissa")
    assert refused.stdout.splitlines()[1].split()[3] == "18.1+"
    assert "LoRA bf16 needs 18.1 GiB" in refused.stderr


def test_the_guides_tables_for_one_model() -> None:
    result = run("--model", "llama-2-7b", "--table", "-o", "json")
    methods = {row["method"]: row for row in json.loads(result.stdout)["methods"]}
    assert methods["qlora"]["smallest_machine"] == "1xRTX3080"


def test_the_table_promises_no_machine_that_a_run_cannot_use() -> None:
    """A run stays within one machine, so more of them hold no larger model."""
    table = run("--model", "llama-3.1-405b", "--table").stdout
    assert re.search(r"^full +7,030.3 +none up to 8xB200 ", table, flags=re.MULTILINE)
    answer = json.loads(run("--model", "llama-3.1-405b", "--table", "-o", "json").stdout)
    assert [method["smallest_machine"] for method in answer["methods"]] == [None, "8xH200", "8xA100-80G"]


def test_any_model_by_its_config(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(CONFIGS["qwen3-0.6b"]))
    assert run("--config", str(config), "--on", "T4").exit_code == 0
    config.write_text("[]")
    assert isinstance(run("--config", str(config), "--on", "T4").exception, InvalidRequest)


def test_the_rows_of_a_file_are_counted(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    line = json.dumps({"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]})
    rows.write_text(f"{line}\n" * 12)
    result = run("--model", "smollm2-135m", "--on", "T4", "--data", str(rows))
    assert result.exit_code == 0, result.output
    assert "12 rows" in result.output
    rows.write_text(f"{line}\nnot json\n")
    assert isinstance(run("--model", "smollm2-135m", "--on", "T4", "--data", str(rows)).exception, InvalidTrainingFile)


def one_plan(*arguments: str) -> dict[str, Any]:
    result = run(*arguments, "-o", "json")
    assert result.exit_code == 0, result.output
    answer: dict[str, Any] = json.loads(result.stdout)[0]["plan"]
    return answer


def test_a_processor_and_its_memory_can_be_asked_about() -> None:
    small = one_plan("--model", "smollm2-135m", "--on", "cpu", "--host-memory", "12")
    assert small["device"] == "cpu"
    assert small["memory"]["budget_bytes"] <= 12 * 2**30


def test_the_length_of_rows_moves_the_time_and_not_the_number_of_rows() -> None:
    short, long = (
        one_plan("--model", "qwen3-8b", "--on", "H100", "--tokens-per-row", tokens) for tokens in ("200", "4000")
    )
    assert long["time"]["seconds"] > 10 * short["time"]["seconds"]


def test_preference_pairs_and_epochs_can_be_asked_about() -> None:
    pairs = one_plan("--model", "qwen3-8b", "--on", "H100", "--objective", "dpo", "--epochs", "2")
    assert (pairs["objective"], pairs["epochs"], pairs["beta"]) == ("dpo", 2, 0.1)


def test_the_rows_of_a_file_say_what_is_learned(tmp_path: Path) -> None:
    rows = tmp_path / "pairs.jsonl"
    rows.write_text(json.dumps({"prompt": "hi", "chosen": "hello", "rejected": "go"}) + "\n")
    assert one_plan("--model", "smollm2-135m", "--on", "T4", "--data", str(rows))["objective"] == "dpo"
    refused = run("--model", "gpt2", "--on", "T4", "--data", str(rows), "--objective", "supervised")
    assert refused.exit_code == 2


def test_a_name_for_weights_in_4_bits_is_planned_with_a_word() -> None:
    result = run("--model", "unsloth/Qwen3-8B-bnb-4bit", "--on", "RTX4090")
    assert result.exit_code == 0
    assert "4-bit weights" in result.output


def test_the_table_has_one_unit() -> None:
    header = run("--model", "llama-3.1-70b", "--table").stdout.splitlines()[0]
    assert "PEAK GIB" in header
    assert "GIB ON EACH" in header


def no_such_number(word: str) -> float:
    raise AssertionError(f"{word} is not JSON")


@settings(max_examples=20, deadline=None)
@given(
    model=st.sampled_from(["smollm2-135m", "qwen3-30b-a3b", "llama-3.1-405b", "gpt2"]),
    on=st.sampled_from(["CPU", "1xCPU:2G", "RTX3080:1G", "8xH100", "1024xB200", "T4"]),
    rows=st.sampled_from([1, 7, 10**6, 2**53]),
    tokens=st.sampled_from([1, 500, 1_048_576]),
    price=st.sampled_from([0.0, 1e-300, 2.5, 1e6]),
    epochs=st.sampled_from([1, 50]),
)
def test_the_json_of_any_question_holds_finite_numbers_only(
    model: str, on: str, rows: int, tokens: int, price: float, epochs: int
) -> None:
    numbers = ["--rows", str(rows), "--tokens-per-row", str(tokens), "--price", str(price), "--epochs", str(epochs)]
    result = run("--model", model, "--on", on, *numbers, "-o", "json")
    assert result.exit_code in (0, 7), result.output
    json.loads(result.stdout, parse_constant=no_such_number)


@pytest.mark.parametrize("number", ["inf", "nan", "-inf", "1e308"])
@pytest.mark.parametrize("option", ["--price", "--host-memory"])
def test_what_is_no_number_of_money_or_memory_is_refused(option: str, number: str) -> None:
    assert run("--model", "gpt2", "--on", "T4", option, number).exit_code == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ("--on", "T4"),
        ("--model", "gpt2", "--rows", "9", "--host-memory", "9"),
        ("--model", "gpt2"),
        ("--model", "gpt2", "--on", ","),
        ("--model", "gpt2", "--on", "T4", "--method", "magic"),
        ("--model", "gpt2", "--on", "T4", "--validation", "none", "--early-stopping-patience", "2"),
        ("--model", "gpt2", "--table", "--on", "T4"),
        ("--model", "gpt2", "--table", "--rows", "9"),
    ],
)
def test_a_wrong_command_line_is_exit_code_2(arguments: tuple[str, ...]) -> None:
    assert run(*arguments).exit_code == 2


@pytest.mark.parametrize("modules", ["foo", "", "q_proj,foo"])
def test_modules_that_the_model_does_not_have_are_named_as_the_service_names_them(modules: str) -> None:
    error = run("--model", "llama-3.2-1b", "--on", "T4", "--target-modules", modules).exception
    assert isinstance(error, InvalidRequest)
    assert (error.code, error.param) == ("no_such_target_modules", "tunesmith.lora.target_modules")
    assert "v_proj" in str(error.hint)


def test_an_unknown_gpu_gets_near_matches() -> None:
    error = run("--model", "gpt2", "--on", "1xRTX4091").exception
    assert isinstance(error, InvalidRequest)
    assert "RTX 4090" in str(error.hint)


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A computer where no service runs and nothing is known yet."""
    monkeypatch.setenv("TUNESMITH_DATA_DIR", str(tmp_path / "data"))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIGS["qwen3-8b"]))
    return folder


def on_models(*arguments: str) -> Result:
    return CliRunner().invoke(models.app, list(arguments))


def test_a_model_added_by_its_config_is_planned_by_its_name_without_any_service(alone: Path) -> None:
    added = on_models("add", "acme/ours", "--config", str(alone))
    assert added.exit_code == 0, added.output
    planned = run("--model", "acme/ours", "--on", "1xH100", "-o", "json")
    known = run("--model", "qwen3-8b", "--on", "1xH100", "-o", "json")
    assert json.loads(planned.stdout)[0]["plan"]["memory"] == json.loads(known.stdout)[0]["plan"]["memory"]
    assert "shape only" in on_models("ls").stdout
    assert on_models("rm", "acme/ours").exit_code == 0
    assert isinstance(run("--model", "acme/ours", "--on", "1xH100").exception, InvalidRequest)


def test_a_config_that_cannot_be_read_is_not_remembered(alone: Path) -> None:
    (alone / "config.json").write_text("{}")
    assert isinstance(on_models("add", "ours", "--config", str(alone)).exception, InvalidRequest)
    assert not list(alone.parent.glob("data/shapes/*"))


@pytest.mark.parametrize("name", ["../../x", ".hidden", "", "x" * 200])
def test_a_name_is_never_a_way_out_of_the_folder(alone: Path, name: str) -> None:
    on_models("add", name, "--config", str(alone))
    assert {path.parent for path in alone.parent.rglob("*.json")} <= {alone, alone.parent / "data" / "shapes"}


def test_three_reasons_come_first_and_the_rest_when_asked_why() -> None:
    short, long = (run("--model", "llama-3.1-8b", "--on", "1xA10G", *more).output for more in ((), ("--why",)))
    assert "more reasons with --why" in short
    assert "more reasons" not in long
    assert "learning-rate" not in short
    assert "learning-rate" in long
    for word in ("not qlora", "quickest", "cheapest", "safest", "One more A10G"):
        assert word in short


def test_ends_that_are_the_same_way_are_told_in_one_line() -> None:
    lines = run("--model", "smollm2-135m", "--on", "CPU", "--rows", "240").output.splitlines()
    assert [line for line in lines if "also the cheapest and the safest" in line]
    assert not [line for line in lines if line.startswith("  cheapest")]


def test_a_refusal_says_of_each_method_once_why_it_does_not_fit() -> None:
    output = run("--model", "llama-3.3-70b", "--on", "2xRTX4090", "--rows", "5000").output
    assert "not lora" not in output
    assert output.count("LoRA bf16 needs") == 1
    assert "On 4 x RTX 4090 QLoRA" in output


def test_a_plan_without_a_gpu_has_no_gpu_hours_and_short_runs_cost_more_than_nothing() -> None:
    header, row = run("--model", "smollm2-135m", "--on", "CPU", "--rows", "24").stdout.splitlines()[:2]
    assert row[header.index("GPU HOURS") :][:9].strip() in ("", "-")
    header, row = run("--model", "smollm2-135m", "--on", "T4", "--rows", "10", "--price", "1").stdout.splitlines()[:2]
    assert float(row[header.index("COST") :].split()[0]) > 0


def test_a_plan_that_holds_nothing_out_trains_on_every_row_and_says_so() -> None:
    asked = ("--model", "smollm2-135m", "--on", "T4", "--rows", "1000")
    output = run(*asked, "--validation", "none", "--why").output
    assert "1,000 rows, 500K tokens" in output
    assert "No row is held out, as asked" in output
    assert "1,000 rows (100 held out)" in run(*asked).output


def test_a_way_says_what_it_does_to_its_weights() -> None:
    """QLoRA of the rejected methods holds its base whole and is slower than the quickest way, which shares it out."""
    told = run("--model", "llama-3.1-8b", "--on", "2xRTX4090").stderr
    assert re.search(r"quickest +qlora sharded on 2 GPUs: ", told)
