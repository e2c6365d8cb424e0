"""Accuracy of a model on held-out rows, loaded as a user would: transformers, and PEFT where there is an adapter.

Every section's name is scored by its summed log-probability after the prompt; the highest wins. All names share one
pass over the prompt: they follow it as branches of a tree, each seeing the prompt and itself.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

ROWS_AT_ONCE = 32


@dataclass(frozen=True)
class Tree:
    """One prompt with all answers behind it.

    tokens, positions: int64 [length]; visible: bool [length, length], row sees column; scored: for each answer the
    (position that predicts, token predicted) pairs.
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    visible: torch.Tensor
    scored: tuple[tuple[tuple[int, int], ...], ...]


def tree_of(prompt: Sequence[int], answers: Sequence[Sequence[int]]) -> Tree:
    """Lay the answers out behind the prompt; an answer's last token predicts nothing and is left out."""
    tokens, positions = list(prompt), list(range(len(prompt)))
    branches: list[tuple[int, int]] = []
    scored = []
    for answer in answers:
        start = len(tokens)
        tokens += answer[:-1]
        positions += range(len(prompt), len(prompt) + len(answer) - 1)
        branches.append((start, len(tokens)))
        sources = [len(prompt) - 1, *range(start, len(tokens))]
        scored.append(tuple(zip(sources, answer, strict=True)))
    visible = torch.zeros(len(tokens), len(tokens), dtype=torch.bool)
    visible[:, : len(prompt)] = True
    for start, end in branches:
        visible[start:end, start:end] = True
    return Tree(torch.tensor(tokens), torch.tensor(positions), visible.tril(), tuple(scored))


@torch.no_grad()
def score(model: PreTrainedModel, trees: Sequence[Tree]) -> torch.Tensor:
    """Summed log-probability of each answer after each prompt: fp32 [prompts, answers]. The head multiplies in fp32."""
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    head = causal.get_output_embeddings().weight.float()
    result = torch.zeros(len(trees), len(trees[0].scored))
    by_length = sorted(range(len(trees)), key=lambda index: len(trees[index].tokens))
    for first in range(0, len(by_length), ROWS_AT_ONCE):
        chosen = by_length[first : first + ROWS_AT_ONCE]
        states = _states(causal, [trees[index] for index in chosen])
        for row, index in enumerate(chosen):
            sources = sorted({source for answer in trees[index].scored for source, _ in answer})
            log_probabilities = torch.log_softmax(states[row, sources].float() @ head.T, dim=-1)
            at = {source: line for line, source in enumerate(sources)}
            for number, answer in enumerate(trees[index].scored):
                result[index, number] = sum(log_probabilities[at[source], token] for source, token in answer)
    return result


def _states(model: PreTrainedModel, trees: Sequence[Tree]) -> torch.Tensor:
    """Last hidden states, [prompts, length, hidden size], of one padded batch; nothing sees its padding."""
    length = max(len(tree.tokens) for tree in trees)
    tokens = torch.zeros(len(trees), length, dtype=torch.long)
    positions = torch.zeros_like(tokens)
    visible = torch.eye(length, dtype=torch.bool).repeat(len(trees), 1, 1)
    for row, tree in enumerate(trees):
        own = len(tree.tokens)
        tokens[row, :own], positions[row, :own], visible[row, :own, :own] = tree.tokens, tree.positions, tree.visible
    return model.get_decoder()(
        input_ids=tokens, position_ids=positions, attention_mask=visible[:, None], use_cache=False
    ).last_hidden_state


def load(base: Path, output: Path | None, *, four_bit: bool) -> PreTrainedModel:
    """The base alone, the base with the adapter in `output`, or the model in `output`; bf16, on request over NF4."""
    adapter = output is not None and (output / "adapter_config.json").is_file()
    options: dict[str, Any] = {"dtype": torch.bfloat16, "local_files_only": True}
    if four_bit:
        from transformers import BitsAndBytesConfig

        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    model = AutoModelForCausalLM.from_pretrained(base if adapter or output is None else output, **options)
    if adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, output)
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", type=Path, help="held_out.json: prompts, answers, index of the right one")
    parser.add_argument("base", type=Path)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--four-bit", action="store_true")
    arguments = parser.parse_args()
    started = time.perf_counter()
    task = json.loads(arguments.task.read_text())
    tokenizer = AutoTokenizer.from_pretrained(arguments.base, local_files_only=True)
    answers = tokenizer(task["answers"], add_special_tokens=False).input_ids
    trees = [tree_of(prompt, answers) for prompt in tokenizer(task["prompts"]).input_ids]
    scores = score(load(arguments.base, arguments.output, four_bit=arguments.four_bit), trees)
    right = torch.tensor(task["right"])
    chosen = scores.argmax(dim=1)
    print(
        json.dumps(
            {
                "accuracy": (chosen == right).float().mean().item(),
                "loss": torch.nn.functional.cross_entropy(scores, right).item(),
                "chosen": chosen.tolist(),
                "scoring_seconds": round(time.perf_counter() - started, 1),
            }
        )
    )


if __name__ == "__main__":
    main()
