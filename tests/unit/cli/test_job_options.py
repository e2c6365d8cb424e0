"""What can be asked for over the API can be asked for on the command line."""

import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import pytest
import typer
from pydantic import BaseModel
from typer.models import OptionInfo
from typer.testing import CliRunner

from tests.command import Run
from tunesmith.cli.job_options.groups import with_groups
from tunesmith.cli.job_options.job import JobOptions
from tunesmith.cli.job_options.learning import LearningOptions
from tunesmith.cli.verbs.options import Format
from tunesmith.local.main import app
from tunesmith.tuning.api.requests.jobs import JobCreate
from tunesmith.tuning.words import Goal, Objective

# Given as an argument, said by another option, or the older spelling of what the method's own settings say.
NOT_OPTIONS = re.compile(
    r"model|training_file|validation_file|method\.type|method\.(supervised|reinforcement).*|hyperparameters.*|integrations\.type"
)
LEARNING = LearningOptions(
    method="lora", goal=Goal.QUALITY, objective=Objective.DPO, beta=0.2, validation="none", epochs=2,
    batch_size=4, learning_rate=1e-4, learning_rate_multiplier=2.0,
    early_stopping_patience=3, max_seq_length=512, rank=8, alpha=16.0, dropout=0.1,
    target_modules="q_proj,v_proj", use_rslora=True, use_dora=True, init="pissa", float8_base=True, merge=True,
)  # fmt: skip
JOB = JobOptions(
    suffix="s", seed=1, priority=2, deadline="6h", max_attempts=2, metadata=["a=b"], wandb="p",
    wandb_name="n", wandb_entity="e",
    wandb_tag=["t"],
)  # fmt: skip


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) is not None:
        for part in get_args(annotation):
            yield from models_in(part)


def leaves_of_model(model: type[BaseModel], path: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        inner = list(models_in(field.annotation))
        if not inner:
            yield path + name
        for one in inner:
            yield from leaves_of_model(one, f"{path}{name}.")


def leaves_of(value: Any, path: str = "") -> Iterator[str]:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        yield from leaves_of(value[0], path)
    elif isinstance(value, dict) and path != "metadata.":
        for name, inner in value.items():
            yield from leaves_of(inner, f"{path}{name}.")
    else:
        yield path.rstrip(".")


def test_every_documented_option_of_a_job_has_one_of_submit() -> None:
    body = {**JOB.fields, **LEARNING.learning.fields, "tunesmith": LEARNING.ours | JOB.ours}
    wanted = {leaf for leaf in leaves_of_model(JobCreate) if not NOT_OPTIONS.fullmatch(leaf)}
    assert wanted - set(leaves_of(body)) == set()
    request = JobCreate.model_validate({**body, "model": "m", "training_file": "f"})
    assert request.tunesmith.lora.target_modules == ("q_proj", "v_proj")


def test_the_examples_of_this_test_give_every_option_a_value_of_its_own() -> None:
    same = {("learning", "on_long_row"), ("learning", "on_dropped_content"), ("job", "name")}
    for kind, group in (("learning", LEARNING), ("job", JOB)):
        for field in fields(group):
            is_default = field.default is not MISSING and getattr(group, field.name) == field.default
            assert not is_default or (kind, field.name) in same, field.name


def test_an_option_of_both_verbs_has_one_name(run: Run) -> None:
    def options(verb: str) -> set[str]:
        told = run(verb, "--help", env={"COLUMNS": "200"}).stdout
        return set(re.findall(r"(--[a-z0-9-]+)", told))

    of_plan, of_submit = options("plan"), options("submit")
    assert {f"--{field.name.replace('_', '-')}" for field in fields(LearningOptions)} <= of_plan & of_submit
    assert "--seq-length" not in of_plan


def verbs_of(app: typer.Typer, *before: str) -> Iterator[tuple[str, Callable[..., Any]]]:
    for command in app.registered_commands:
        if command.callback is not None:
            yield " ".join([*before, command.name or command.callback.__name__.replace("_", "-")]), command.callback
    for group in app.registered_groups:
        if group.typer_instance is not None:
            yield from verbs_of(group.typer_instance, *before, str(group.name))


def options_of(verb: Callable[..., Any]) -> Iterator[tuple[str, object]]:
    """Each flag with what it takes: how that is written, or the kind of value."""
    for name, parameter in inspect.signature(verb).parameters.items():
        for option in getattr(parameter.annotation, "__metadata__", ()):
            if isinstance(option, OptionInfo):
                names = [text for text in (option.default, *(option.param_decls or ())) if str(text).startswith("--")]
                written = option.metavar.partition("|")[0] if option.metavar else value_of(parameter.annotation)
                yield (names or [f"--{name.replace('_', '-')}"])[0], written


def value_of(annotation: Any) -> object:
    """Of `Annotated[list[Kind] | None, ...]` it is `Kind`."""
    kind = annotation
    while get_origin(kind) in (Annotated, Union, UnionType, list):
        kind = next(part for part in get_args(kind) if part is not NoneType)
    return kind


def test_a_flag_means_the_same_wherever_it_is() -> None:
    meanings: dict[str, dict[object, list[str]]] = {}
    for verb, function in verbs_of(app):
        for flag, meaning in options_of(function):
            meanings.setdefault(flag, {}).setdefault(meaning, []).append(verb)
    assert len(meanings) > 100
    several = {flag: found for flag, found in meanings.items() if len(found) > 1}
    assert several.pop("--output")[Format] == ["submit"], "the one verb that also prints an id alone"
    assert several == {}


def test_a_group_becomes_options_in_the_place_where_it_stands() -> None:
    told: list[object] = []
    app = typer.Typer()

    @app.command()
    @with_groups(job=JobOptions)
    def verb(*, job: JobOptions, loud: bool = False) -> None:
        told.append((job.suffix, job.metadata, loud))

    ended = CliRunner().invoke(app, ["--suffix", "s", "--metadata", "a=b", "--metadata", "c=d", "--loud"])
    assert (ended.exit_code, told) == (0, [("s", ["a=b", "c=d"], True)])
    assert CliRunner().invoke(app, ["--suffics", "s"]).exit_code == 2


@pytest.mark.parametrize("option", ["--rank", "--epochs", "--max-seq-length", "--batch-size"])
def test_a_number_out_of_bounds_is_named_without_a_service(run: Run, option: str) -> None:
    refused = run("plan", "--model", "gpt2", "--on", "T4", option, "0")
    assert refused.returncode == 7
    assert f"  field: {FIELDS[option]}\n" in refused.stderr


FIELDS = {
    "--rank": "lora.rank",
    "--epochs": "hyperparameters.n_epochs",
    "--max-seq-length": "max_seq_length",
    "--batch-size": "hyperparameters.batch_size",
}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--beta", "0.1", "--objective", "supervised"), "It is of DPO"),
        (("--wandb-tag", "night"), "--wandb PROJECT"),
        (("--alpha", "inf"), "not a number"),
        (("--plan",), "--yes"),
        (("--validation", "none", "--early-stopping-patience", "2"), "held-out"),
    ],
)
def test_options_that_do_not_go_together_are_told_before_anything_is_sent(
    run: Run, tmp_path: Any, words: tuple[str, ...], told: str
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("{}\n")
    refused = run("submit", rows, "--model", "m", *words, env={"COLUMNS": "200"})
    assert (refused.returncode, told in refused.stderr) == (2, True), refused.stderr
