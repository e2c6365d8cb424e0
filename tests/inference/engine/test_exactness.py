"""A row in company has the bits that it has alone: whoever joins, leaves, shares its step or came before."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from tests.inference.engine.asking import Answer, Asker, random_prompt, write_adapter
from tests.tiny_model import build_tiny_model
from tunesmith.worker.inference.engine.answering.engine import Engine, Limits
from tunesmith.worker.inference.engine.compute import products
from tunesmith.worker.inference.engine.compute.model import BatchModel
from tunesmith.worker.train.models.model import load_plainly

MANY_ADAPTERS, MANY_REQUESTS = 64, 1000
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")


def random_asks(source: random.Random, names: list[str], *, count: int, longest: int = 90) -> list[dict[str, Any]]:
    """Requests of many lengths; one in ten is for the base."""
    return [
        {
            "prompt": random_prompt(source, longest=longest),
            "adapter": source.choice(names) if source.random() < 0.9 else None,
            "most_tokens": source.randint(1, 16),
        }
        for _ in range(count)
    ]


def ask_together(asker: Asker, asks: list[dict[str, Any]], source: random.Random) -> list[Answer]:
    """Up to three join before each step."""
    answers, left = [], list(asks)
    while left or not asker.engine.is_idle:
        joining = source.randint(0, 3)
        answers.extend(asker.begin(**ask)[1] for ask in left[:joining])
        left = left[joining:]
        asker.engine.step()
    return answers


def said(answer: Answer) -> tuple[list[int], list[float | None]]:
    return answer.tokens, answer.logprobs


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_a_mixed_batch_says_to_the_last_bit_what_each_adapter_says_alone(
    new_asker: Callable[..., Asker], adapters: dict[str, Path], seed: int
) -> None:
    source = random.Random(seed)
    asks = random_asks(source, list(adapters), count=25)
    together = ask_together(new_asker(prefix_bytes=0), asks, source)
    alone = new_asker(prefix_bytes=0)
    assert [said(answer) for answer in together] == [said(alone.ask(**ask)) for ask in asks]
    assert len({tuple(answer.tokens) for answer in together}) > 20


def test_adapters_answer_as_peft_lets_them(asker: Asker, adapters: dict[str, Path], base: Path) -> None:
    prompt = random_prompt(random.Random(3), longest=50)
    plain = load_plainly(base, dtype=torch.float32).eval()
    for name, folder in list(adapters.items())[:6]:
        peft = PeftModel.from_pretrained(plain, folder, local_files_only=True).eval()
        ids = torch.tensor([prompt])
        expected = peft.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, eos_token_id=None
        )
        plain = peft.unload()
        assert asker.ask(prompt, adapter=name, most_tokens=12).tokens == expected[0, len(prompt) :].tolist()


@pytest.mark.slow
def test_a_thousand_requests_over_sixty_four_adapters_get_their_own_adapters_answer(tmp_path: Path) -> None:
    model_folder = build_tiny_model(tmp_path / "base")
    model = BatchModel.load(model_folder)
    folders = {f"m{seed}": write_adapter(tmp_path / f"m{seed}", seed=seed) for seed in range(MANY_ADAPTERS)}

    def load() -> Asker:
        engine = Engine(model, limits=Limits(adapter_bytes=2 * 1024**2, waiting=MANY_REQUESTS))
        for name, folder in folders.items():
            engine.residents.load(name, folder)
        return Asker(engine, model_folder)

    source = random.Random(11)
    asks = random_asks(source, list(folders), count=MANY_REQUESTS, longest=12)
    for ask in asks:
        ask["most_tokens"] = 1 + ask["most_tokens"] % 5
    together, alone = ask_together(load(), asks, source), load()
    in_order = sorted(range(MANY_REQUESTS), key=lambda index: str(asks[index]["adapter"]))
    for index in in_order:
        assert said(together[index]) == said(alone.ask(**asks[index]))


@pytest.mark.mostly_slow(rows=1)
@pytest.mark.parametrize("seed", range(2))
def test_a_reused_beginning_changes_no_bit(new_asker: Callable[..., Asker], seed: int) -> None:
    source = random.Random(seed)
    head = [source.randrange(3, 512) for _ in range(70)]
    asks = [
        {"prompt": head[: source.randint(1, 70)] + random_prompt(source, longest=40), "adapter": name}
        for name in ("a1", "a2", None) * 4
    ]
    keeping, plain = new_asker(), new_asker(prefix_bytes=0)
    first = [said(plain.ask(**ask)) for ask in asks]
    reused = 0
    for ask, expected in zip(asks * 2, first * 2, strict=True):
        sequence, answer = keeping.begin(**ask)
        keeping.finish()
        assert said(answer) == expected
        reused += sequence.reused_tokens
    assert reused > 300


def test_a_conversation_goes_on_from_its_earlier_turns(asker: Asker) -> None:
    prompt = random_prompt(random.Random(5), longest=80) + [7] * 64
    first = asker.ask(prompt, adapter="a3")
    sequence, _ = asker.begin([*prompt, *first.tokens, *range(3, 40)], adapter="a3")
    asker.finish()
    assert sequence.reused_tokens == len(prompt) // 32 * 32
    other, _ = asker.begin(prompt, adapter="a4")
    asker.finish()
    assert other.reused_tokens == 0  # its keys and values are not those of another adapter


def test_kept_beginnings_stay_within_their_bound(new_asker: Callable[..., Asker]) -> None:
    source = random.Random(0)
    asker = new_asker(prefix_bytes=200_000)
    for _ in range(30):
        asker.ask([source.randrange(3, 512) for _ in range(70)], most_tokens=1)
        assert asker.engine.counts()["prefix_bytes"] <= 200_000
    assert asker.engine.counts()["prefix_bytes"] > 100_000


def test_products_that_change_with_their_rows_are_found_and_go_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.randn(96, 64, generator=torch.Generator().manual_seed(0))
    rows = torch.randn(40, 64, generator=torch.Generator().manual_seed(1))
    made = products.SteadyProducts()
    monkeypatch.setattr(products, "_laid_out", lambda weight, _: lambda rows: rows @ weight.T + len(rows) * 1e-7)
    product = made.of(weight, None)
    assert made.in_pieces == [(96, 64, 0)]
    assert torch.allclose(product(rows), rows @ weight.T, atol=1e-5)
    assert products.is_steady(product, columns=64)


def test_a_step_takes_no_more_of_a_newcomers_prompt_than_its_share(asker: Asker) -> None:
    _, writing = asker.begin([5, 6, 7], most_tokens=40)
    asker.engine.step()
    newcomer, _ = asker.begin(list(range(3, 500)), adapter="a1")
    before = len(writing.tokens)
    for step in range(1, 4):
        asker.engine.step()
        assert newcomer.place is not None
        assert newcomer.place.cache.tokens == 64 * step
        assert len(writing.tokens) == before + step
    asker.finish()
