"""Bad data and settings that only the trainer can see end the run by code and field, with reason and next step."""

import json
import resource
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from tests import plans
from tests.tiny_model import build_tiny_model
from tests.train import runs
from tunesmith.tuning.errors import Category, Failure
from tunesmith.worker.run_directory import EXIT_FAILED, RunDirectory

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

LONG = {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "one " * 60}]}
PAIR = {"prompt": "one two ", "chosen": "two one", "rejected": "no"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose rows get no token that ends them."""
    folder = build_tiny_model(tmp_path_factory.mktemp("endless"))
    edit(folder / "tokenizer_config.json", {"eos_token": None})
    for name in ("config.json", "generation_config.json"):
        edit(folder / name, {"eos_token_id": None})
    return folder


def failure(directory: RunDirectory) -> Failure:
    assert runs.train_here(directory) == EXIT_FAILED
    result = directory.read_result()
    assert result is not None
    assert result.failure is not None
    assert result.failure.category is Category.USER_ERROR
    assert result.failure.hint
    assert result.failure.param
    return result.failure


def test_long_rows_are_cut_and_counted_unless_the_job_says_otherwise(tmp_path: Path, model: Path) -> None:
    rows = [LONG, *runs.chat_rows(8), LONG]
    plan = plans.plan(max_sequence_length=48, epochs=1)
    directory = runs.make_run(tmp_path, model=model, plan=plan, rows=rows)
    assert runs.train_here(directory) == 0
    told = next(event for event in runs.events(directory) if "rows_truncated" in event["data"])
    assert (told["level"], told["data"]["rows_truncated"]) == ("warn", 2)
    assert "| rows truncated | 2 |" in (directory.output / "README.md").read_text()


def test_long_rows_are_refused_by_line_and_length_when_the_job_says_so(tmp_path: Path, model: Path) -> None:
    rows = [LONG, *runs.chat_rows(8), LONG]
    plan = plans.plan(max_sequence_length=48, on_long_row="refuse")
    told = failure(runs.make_run(tmp_path, model=model, plan=plan, rows=rows))
    assert (told.code, told.param) == ("row_too_long", "training_file")
    assert "2 rows of the training file are longer than 48 tokens: line 1 (" in told.message
    assert "line 10 (" in told.message
    assert "raise max_seq_length to" in str(told.hint)


def test_a_validation_file_is_blamed_by_its_own_name(tmp_path: Path, model: Path) -> None:
    plan = plans.plan(max_sequence_length=48, on_long_row="refuse")
    told = failure(runs.make_run(tmp_path, model=model, plan=plan, validation=[LONG]))
    assert (told.code, told.param) == ("row_too_long", "validation_file")


def test_rows_with_nothing_left_to_learn_end_the_run_before_it_begins(tmp_path: Path, model: Path) -> None:
    prompt_only = {"messages": [{"role": "user", "content": "one " * 60}, {"role": "assistant", "content": "x"}]}
    plan = plans.plan(max_sequence_length=32)
    told = failure(runs.make_run(tmp_path, model=model, plan=plan, rows=[prompt_only]))
    assert (told.code, told.param) == ("no_supervised_tokens", "training_file")
    assert "32 tokens" in told.message
    assert "raise max_seq_length" in str(told.hint)


@pytest.mark.parametrize(
    ("objective", "row", "fitting"), [("supervised", PAIR, "dpo"), ("dpo", runs.chat_rows(1)[0], "supervised")]
)
def test_rows_of_the_other_objective_name_the_line_and_the_method_to_choose(
    tmp_path: Path, model: Path, objective: str, row: dict[str, Any], fitting: str
) -> None:
    told = failure(runs.make_run(tmp_path, model=model, plan=plans.plan(objective=objective), rows=[row] * 3))
    assert told.code == "invalid_training_file"
    assert told.message.startswith("Line 1 of the training file")
    assert f'"type": "{fitting}"' in str(told.hint)


def test_a_loss_that_is_no_number_names_step_lines_and_last_good_checkpoint(tmp_path: Path, model: Path) -> None:
    plan = plans.plan(
        method="full", learning_rate=1e30, max_gradient_norm=0, warmup_steps=0, checkpoint_interval_steps=1
    )
    told = failure(runs.make_run(tmp_path, model=model, plan=plan))
    assert told.code == "loss_is_not_finite"
    assert "at step 2" in told.message
    assert "Lines of the training file" in told.message
    assert "step-00000001" in told.message


def test_target_modules_that_match_nothing_are_answered_with_near_names(tmp_path: Path, model: Path) -> None:
    plan = plans.plan(lora=plans.lora(target_modules=("q_porj",)))
    told = failure(runs.make_run(tmp_path, model=model, plan=plan))
    assert told.code == "no_such_target_modules"
    assert "Did you mean q_proj" in str(told.hint)


def test_tokens_without_embeddings_are_found_before_training(tmp_path: Path) -> None:
    model = build_tiny_model(tmp_path / "model", vocabulary_size=512)
    config = json.loads((model / "config.json").read_text())
    small = load_file(model / "model.safetensors")
    small["model.embed_tokens.weight"] = small["model.embed_tokens.weight"][:300].clone()
    save_file(small, model / "model.safetensors", metadata={"format": "pt"})
    (model / "config.json").write_text(json.dumps({**config, "vocab_size": 300}))
    told = failure(runs.make_run(tmp_path, model=model, plan=plans.plan()))
    assert told.code == "vocabulary_mismatch"


def test_an_adapter_of_a_base_with_other_shapes_is_refused(tmp_path: Path, model: Path) -> None:
    adapter = trained_adapter(tmp_path, build_tiny_model(tmp_path / "other", hidden_size=32))
    told = continued(tmp_path, model, adapter, without_manifest=True)
    assert "its shapes do not fit" in told.message


def test_an_adapter_of_a_deeper_base_is_refused(tmp_path: Path, model: Path) -> None:
    adapter = trained_adapter(tmp_path, build_tiny_model(tmp_path / "other", layers=3))
    told = continued(tmp_path, model, adapter, without_manifest=True)
    assert "weights for other modules" in told.message


def test_an_adapter_of_a_base_with_other_weights_is_refused_by_their_hash(tmp_path: Path, model: Path) -> None:
    adapter = trained_adapter(tmp_path, build_tiny_model(tmp_path / "other", seed=9))
    told = continued(tmp_path, model, adapter)
    assert "model.safetensors with sha256" in told.message


def test_full_fine_tuning_does_not_throw_an_adapter_away(tmp_path: Path, model: Path) -> None:
    plan = plans.plan(method="full")
    told = failure(runs.make_run(tmp_path, model=model, plan=plan, adapter_dir=str(tmp_path)))
    assert (told.code, told.param) == ("adapter_needs_lora", "tunesmith.method")


@pytest.mark.mostly_slow(rows=1)
@pytest.mark.parametrize(
    "absent", [["eos_token"], ["bos_token"], ["pad_token"], ["eos_token", "bos_token", "pad_token"]]
)
def test_a_tokenizer_may_lack_any_special_token(tmp_path: Path, absent: list[str]) -> None:
    model = build_tiny_model(tmp_path / "model")
    edit(model / "tokenizer_config.json", dict.fromkeys(absent))
    directory = runs.make_run(tmp_path, model=model, plan=plans.plan(epochs=1), validation=runs.chat_rows(3))
    assert runs.train_here(directory) == 0
    assert any("samples" in event["data"] for event in runs.events(directory))


def test_a_model_without_any_end_trains_on_plain_text_and_says_that_it_will_not_stop(
    tmp_path: Path, endless: Path
) -> None:
    rows = [{"text": "one two three"}] * 8
    directory = runs.make_run(tmp_path, model=endless, plan=plans.plan(epochs=1), rows=rows)
    assert runs.train_here(directory) == 0
    assert any("will not stop by itself" in event["message"] for event in runs.events(directory))


@pytest.mark.parametrize(
    ("change", "code", "param"),
    [
        ({"hidden_size": float("nan")}, "invalid_model_config", "config.hidden_size"),
        ({"num_attention_heads": -4}, "invalid_model_config", "config.num_attention_heads"),
        ({"num_attention_heads": 5}, "invalid_model_config", "config.num_attention_heads"),
        ({"hidden_size": 10**9}, "invalid_model_config", "config.hidden_size"),
        ({"rms_norm_eps": float("nan")}, "invalid_model_config", "config.rms_norm_eps"),
        ({"pad_token_id": 512}, "invalid_model_config", "config.pad_token_id"),
        ({"hidden_size": 10**6}, "config_does_not_fit_weights", "config.hidden_size"),
        ({"intermediate_size": 10**7}, "config_does_not_fit_weights", "config.intermediate_size"),
        ({"num_hidden_layers": 1000}, "config_does_not_fit_weights", "config.num_hidden_layers"),
        ({"vocab_size": 10**7}, "config_does_not_fit_weights", "config.vocab_size"),
        ({"vocab_size": 100}, "config_does_not_fit_weights", "config.vocab_size"),
        ({"max_position_embeddings": "x"}, "invalid_model_config", "config.max_position_embeddings"),
        ({"hidden_act": "nonsense"}, "broken_model", "model"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "broken_model", "model"),
    ],
)
def test_a_config_that_cannot_be_is_refused_before_a_weight_is_read(
    tmp_path: Path, change: dict[str, Any], code: str, param: str
) -> None:
    model = build_tiny_model(tmp_path / "model")
    edit(model / "config.json", change)
    directory = runs.make_run(tmp_path, model=model, plan=plans.plan())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    told = failure(directory)
    assert (told.code, told.param) == (code, param)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


@pytest.mark.parametrize("content", ["[]", "{", "7"])
def test_a_config_that_is_none_is_refused(tmp_path: Path, content: str) -> None:
    model = build_tiny_model(tmp_path / "model")
    (model / "config.json").write_text(content)
    assert failure(runs.make_run(tmp_path, model=model, plan=plans.plan())).code == "broken_model"


def test_weights_that_are_no_numbers_are_not_blamed_on_the_family(tmp_path: Path) -> None:
    model = build_tiny_model(tmp_path / "model")
    weights = load_file(model / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"][3, 5] = float("nan")
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    told = failure(runs.make_run(tmp_path, model=model, plan=plans.plan()))
    assert told.code == "model_gives_no_numbers"
    assert "float32" in told.message


@pytest.mark.parametrize(
    "targets", [("lm_head",), ("embed_tokens",), ("norm",), ("q_proj", "layers.7.self_attn.v_proj")]
)
def test_target_modules_that_miss_every_layer_are_refused_by_name(
    tmp_path: Path, model: Path, targets: tuple[str, ...]
) -> None:
    told = failure(runs.make_run(tmp_path, model=model, plan=plans.plan(lora=plans.lora(target_modules=targets))))
    assert (told.code, told.param) == ("no_such_target_modules", "tunesmith.lora.target_modules")
    assert repr(targets[-1]) in told.message


def test_rows_of_one_token_are_left_out_and_counted(tmp_path: Path, endless: Path) -> None:
    rows = [{"text": "x"}, *[{"text": "one two three"}] * 8, {"text": "x"}]
    directory = runs.make_run(tmp_path, model=endless, plan=plans.plan(epochs=1), rows=rows)
    assert runs.train_here(directory) == 0
    told = next(event for event in runs.events(directory) if "rows_dropped" in event["data"])
    assert (told["level"], told["data"]["rows_dropped"]) == ("warn", 2)


def test_rows_of_one_token_alone_end_the_run(tmp_path: Path, endless: Path) -> None:
    told = failure(runs.make_run(tmp_path, model=endless, plan=plans.plan(), rows=[{"text": "x"}] * 8))
    assert (told.code, told.param) == ("no_supervised_tokens", "training_file")


@pytest.mark.slow
def test_a_conversation_of_twenty_thousand_turns_is_cut_and_trained_on(tmp_path: Path, model: Path) -> None:
    talk = [message for row in runs.chat_rows(10_000) for message in row["messages"]]
    directory = runs.make_run(tmp_path, model=model, plan=plans.plan(epochs=1), rows=[{"messages": talk}])
    began = time.process_time()
    assert runs.train_here(directory) == 0
    assert time.process_time() - began < 30
    assert any(event["data"].get("rows_truncated") == 1 for event in runs.events(directory))


@pytest.mark.parametrize(
    ("template", "code", "words"),
    [
        ("{{ raise_exception('Roles must alternate.') }}", "chat_template_error", "Roles must alternate."),
        ("{{ messages[0].nothing.more }}", "chat_template_error", "UndefinedError"),
        ("{% for message in messages %}", "broken_chat_template", "does not compile"),
        ("{{ messages }}" + " " * 1_000_000, "broken_chat_template", "1,000,014 characters"),
    ],
    ids=["raises", "misuses", "broken", "enormous"],
)
def test_what_a_template_does_wrong_is_never_tried_again(tmp_path: Path, template: str, code: str, words: str) -> None:
    model = build_tiny_model(tmp_path / "model", chat_template=template)
    told = failure(runs.make_run(tmp_path, model=model, plan=plans.plan()))
    assert (told.code, told.retryable) == (code, False)
    assert words in told.message
    assert told.message.startswith("Line 1 of the training file" if code == "chat_template_error" else "The chat")


def edit(file: Path, changes: dict[str, Any]) -> None:
    """Set fields of a JSON file; None takes one away."""
    content = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


def trained_adapter(root: Path, base: Path) -> Path:
    directory = runs.make_run(root / "first", model=base, plan=plans.plan(epochs=1))
    assert runs.train_here(directory) == 0
    return directory.output


def continued(root: Path, model: Path, adapter: Path, *, without_manifest: bool = False) -> Failure:
    if without_manifest:
        (adapter / "manifest.json").unlink()
    told = failure(runs.make_run(root / "second", model=model, plan=plans.plan(), adapter_dir=str(adapter)))
    assert (told.code, told.param) == ("adapter_of_another_base", "model")
    return told
