"""Packing changes no number: the same loss and the same gradients as row after row through the plain model."""

import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from tests import plans
from tests.tiny_model import build_tiny_model
from tests.train import runs
from tunesmith.worker.train.adapters.fuse import fuse
from tunesmith.worker.train.data.packing import pack, plan_micro_steps
from tunesmith.worker.train.data.rows import Rows, load_rows
from tunesmith.worker.train.loop.objectives import supervised
from tunesmith.worker.train.models.model import Learner, enable_checkpointing, load_model, load_tokenizer

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def rows(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Rows:
    file = runs.write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", runs.chat_rows(9))
    return load_rows(file, tokenizer=load_tokenizer(folder), objective="supervised", max_sequence_length=256)


def reference(model: torch.nn.Module, rows: Rows) -> torch.Tensor:
    """Mean loss over all supervised tokens by the model's own forward pass, one row at a time, no packing."""
    total, count = torch.zeros(()), 0
    for row in range(len(rows)):
        ((ids, marks),) = rows.sequences(row)
        tokens = torch.from_numpy(ids.astype("int64"))
        labels = torch.where(torch.from_numpy(marks), tokens, torch.tensor(-100))
        logits = model(input_ids=tokens[None]).logits[0, :-1].float()
        total = total + torch.nn.functional.cross_entropy(logits, labels[1:], ignore_index=-100, reduction="sum")
        count += int((labels[1:] != -100).sum())
    return total / count


def packed(learner: Learner, rows: Rows, *, token_budget: int) -> torch.Tensor:
    total = torch.zeros(())
    for chosen in plan_micro_steps(range(len(rows)), rows.lengths(), token_budget=token_budget):
        total = total + supervised().sums(learner, pack(chosen, rows, device=CPU)).loss
    return total / int(rows.supervised_counts().sum())


def gradients(model: torch.nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


@pytest.mark.mostly_slow(rows=3)
@pytest.mark.parametrize("token_budget", [64, 1000])
@pytest.mark.parametrize("checkpointing", ["none", "selective", "mlp", "full"])
def test_packed_full_fine_tuning_has_the_loss_and_gradients_of_single_rows(
    folder: Path, rows: Rows, token_budget: int, checkpointing: str
) -> None:
    plain = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    model = load_model(folder, plan=plans.plan(method="full"), device=CPU)
    fuse(model)
    enable_checkpointing(model, checkpointing)
    model.train()

    expected = reference(plain, rows)
    loss = packed(Learner(model), rows, token_budget=token_budget)

    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    wanted, got = gradients(plain, expected), gradients(model, loss)
    assert set(got) == set(wanted)
    for name, value in wanted.items():
        torch.testing.assert_close(got[name], value, rtol=1e-3, atol=1e-6, msg=name)


def test_best_fit_fills_micro_steps_up_to_the_budget_and_loses_no_row(rows: Rows) -> None:
    lengths = rows.lengths()
    budget = int(lengths.max()) + 5
    bins = plan_micro_steps(range(len(rows)), lengths, token_budget=budget)
    assert sorted(row for chosen in bins for row in chosen) == list(range(len(rows)))
    loads = [int(lengths[chosen].sum()) for chosen in bins]
    assert max(loads) <= budget
    assert all(first + second > budget for first, second in pairwise(loads))


def test_a_row_beyond_the_budget_stands_alone(rows: Rows) -> None:
    bins = plan_micro_steps(range(len(rows)), rows.lengths(), token_budget=10)
    assert all(len(chosen) == 1 for chosen in bins)


def reference_packing(chosen: Sequence[int], lengths: np.ndarray, *, token_budget: int) -> list[list[int]]:
    """Best-fit decreasing, word for word: of the micro-steps with enough room the fullest, of equals the first."""
    micro_steps: list[list[int]] = []
    for row in sorted(chosen, key=lambda row: (-int(lengths[row]), row)):
        room = [token_budget - int(lengths[rows].sum()) for rows in micro_steps]
        fitting = [index for index, left in enumerate(room) if left >= lengths[row]]
        if fitting:
            micro_steps[min(fitting, key=lambda index: (room[index], index))].append(row)
        else:
            micro_steps.append([row])
    return micro_steps


def test_packing_in_linear_time_packs_as_the_definition_says() -> None:
    random = np.random.default_rng(0)
    for _ in range(100):
        lengths = random.integers(2, 60, size=random.integers(1, 60))
        chosen = random.permutation(len(lengths))[: random.integers(1, len(lengths) + 1)].tolist()
        budget = int(random.integers(1, 150))
        assert plan_micro_steps(chosen, lengths, token_budget=budget) == reference_packing(
            chosen, lengths, token_budget=budget
        )


def test_a_whole_file_is_packed_in_time_that_grows_with_its_rows() -> None:
    random = np.random.default_rng(0)

    def seconds(rows: int) -> float:
        lengths = random.integers(16, 2048, size=rows)
        began = time.process_time()
        plan_micro_steps(range(rows), lengths, token_budget=8192)
        return time.process_time() - began

    assert min(seconds(40_000) for _ in range(3)) < 30 * min(seconds(4_000) for _ in range(3))
