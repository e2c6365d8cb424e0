"""What an answer draws, where it ends, and what ends one answer and no other."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.inference.engine.asking import Asker
from tunesmith.worker.inference.engine.answering.outbox import MOST_UNREAD, Delta
from tunesmith.worker.inference.engine.answering.sampling import NoNumbers, Sampler, Sampling
from tunesmith.worker.inference.engine.answering.sequence import Sequence
from tunesmith.worker.inference.engine.answering.text import TextStream, bytes_of_token
from tunesmith.worker.inference.engine.refusal import Refusal
from tunesmith.worker.train.models.model import load_tokenizer

PROMPT = [5, 9, 200, 31]
STOPS = st.lists(st.text("ab é€😀", min_size=1, max_size=4), max_size=3)


def draw(logits: list[float], *, seed: int = 0, times: int = 2000, **sampling: Any) -> dict[int, float]:
    """Shares of the tokens that were drawn."""
    sampler = Sampler(Sampling(**sampling), seed=seed)
    drawn = [sampler.draw(torch.tensor(logits)).token for _ in range(times)]
    return {token: drawn.count(token) / times for token in sorted(set(drawn))}


def test_tokens_are_drawn_by_their_probabilities() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().tolist()
    assert draw(logits) == pytest.approx({0: 0.5, 1: 0.3, 2: 0.15, 3: 0.05}, abs=0.04)
    assert draw(logits, temperature=0.5)[0] == pytest.approx(0.25 / 0.365, abs=0.04)
    assert draw(logits, top_k=2) == pytest.approx({0: 0.625, 1: 0.375}, abs=0.04)
    assert draw(logits, top_p=0.7) == pytest.approx({0: 0.625, 1: 0.375}, abs=0.04)
    assert draw(logits, top_p=0.01) == {0: 1.0}
    assert draw(logits, min_p=0.4) == pytest.approx({0: 0.625, 1: 0.375}, abs=0.04)
    assert draw(logits, min_p=1.0) == {0: 1.0}
    assert draw(logits, temperature=0) == {0: 1.0}
    assert draw(logits, logit_bias={3: 100.0}) == {3: 1.0}


def test_a_flat_distribution_is_cut_where_its_tokens_hold_the_share() -> None:
    assert 340 < len(draw([0.0] * 400, top_p=0.9, times=1500)) <= 360


def test_penalties_lower_what_was_written() -> None:
    sampler = Sampler(Sampling(temperature=0.0, frequency_penalty=0.5, presence_penalty=0.2), seed=0)
    logits = torch.tensor([1.0, 0.5, 0.0])
    assert [sampler.draw(logits).token for _ in range(4)] == [0, 1, 0, 2]


def test_a_repetition_penalty_counts_the_prompt_and_makes_no_token_likelier() -> None:
    sampler = Sampler(Sampling(temperature=0.0, repetition_penalty=2.0), seed=0, prompt=[0, 3])
    logits = torch.tensor([1.8, 1.0, 0.8, -0.1])
    assert [sampler.draw(logits).token for _ in range(3)] == [1, 0, 0]


def test_logprobs_are_the_models_own() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0])
    drawn = Sampler(Sampling(temperature=0.0, top_logprobs=2), seed=0).draw(logits)
    expected = logits.log_softmax(-1)
    assert drawn.logprob == float(expected[0])
    assert drawn.likeliest == ((0, float(expected[0])), (1, float(expected[1])))


def test_logits_that_are_no_numbers_are_not_drawn_from() -> None:
    with pytest.raises(NoNumbers):
        Sampler(Sampling(), seed=0).draw(torch.tensor([0.0, float("nan")]))


def test_an_answer_with_a_seed_does_not_depend_on_its_neighbours(asker: Asker) -> None:
    sampling = {"adapter": "a2", "temperature": 1.2, "top_p": 0.9, "most_tokens": 20}
    alone = [asker.ask(PROMPT, seed=seed, **sampling).tokens for seed in range(3)]
    together = [asker.begin(PROMPT, seed=seed, **sampling)[1] for seed in (2, 0, 1, 0)]
    asker.begin(PROMPT, adapter="a1", temperature=2.0, most_tokens=20)
    asker.finish()
    assert [answer.tokens for answer in together] == [alone[2], alone[0], alone[1], alone[0]]
    assert len({tuple(tokens) for tokens in alone}) == 3


@pytest.fixture(scope="module")
def tokenizer(base: Path) -> Any:
    return load_tokenizer(base)


def pushed(tokenizer: Any, text: str, *, stops: list[str], one_byte_tokens: bool = True) -> tuple[list[str], bool]:
    """Pieces that come of a text's tokens, here one for each byte."""
    stream = TextStream(tokenizer, stops=stops)
    pieces = []
    for byte in text.encode():
        pieces.append(stream.push(tokenizer.convert_tokens_to_ids(byte_token(tokenizer, byte))))
        if stream.is_stopped:
            return pieces, True
    return [*pieces, stream.flush()], stream.is_stopped


def byte_token(tokenizer: Any, byte: int) -> str:
    """The token of one byte: the byte-level alphabet of GPT-2."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [value for value in range(256) if value not in plain]
    return chr(byte if byte in plain else 256 + others.index(byte))


@given(
    text=st.text(alphabet="ab é€😀\n", max_size=12),
    stops=st.lists(st.text("ab é€😀", min_size=1, max_size=4), max_size=3),
)
@settings(max_examples=150, deadline=None)
def test_a_stream_shows_the_text_up_to_the_first_stop_and_no_broken_character(
    tokenizer: Any, text: str, stops: list[str]
) -> None:
    pieces, is_stopped = pushed(tokenizer, text, stops=stops)
    # The first stop to be complete ends the answer, so a longer one that began before may be passed over.
    ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
    expected = text
    if ends:
        complete = text[: min(ends)]
        expected = complete[: min(complete.find(stop) for stop in stops if stop in complete)]
    assert "".join(pieces) == expected
    assert is_stopped == bool(ends)
    assert all("\N{REPLACEMENT CHARACTER}" not in piece for piece in pieces)


@given(text=st.text(min_size=1, max_size=20))
def test_the_bytes_of_tokens_are_those_of_their_text(tokenizer: Any, text: str) -> None:
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert b"".join(bytes_of_token(tokenizer, token) for token in tokens) == text.encode()


def test_a_stop_string_across_tokens_is_never_shown(asker: Asker) -> None:
    whole = asker.ask(PROMPT, adapter="a2", most_tokens=30)
    stop = whole.text[6:9]
    cut = asker.ask(PROMPT, adapter="a2", most_tokens=30, stops=[stop])
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert cut.finish_reason == "stop"
    assert len(cut.tokens) < len(whole.tokens)


def test_an_end_token_ends_the_answer(asker: Asker) -> None:
    whole = asker.ask(PROMPT, adapter="a2", most_tokens=10)
    end = whole.tokens[4]
    cut = asker.ask(PROMPT, adapter="a2", most_tokens=10, ends=frozenset([end]))
    assert cut.tokens == whole.tokens[: whole.tokens.index(end) + 1]
    assert (cut.finish_reason, whole.finish_reason) == ("stop", "length")


def test_a_cancelled_answer_leaves_before_the_next_step(asker: Asker) -> None:
    sequence, answer = asker.begin(PROMPT, adapter="a1", most_tokens=1000)
    _, other = asker.begin(PROMPT, adapter="a2", most_tokens=5)
    for _ in range(3):
        asker.engine.step()
    sequence.cancel()
    written = len(answer.tokens)
    asker.engine.step()
    assert (len(answer.tokens), asker.engine.counts()["active"]) == (written, 1)
    asker.finish()
    assert len(other.tokens) == 5
    assert asker.engine.counts()["cache_bytes"] == 0


def test_a_client_that_reads_nothing_ends_its_answer_and_fills_no_memory(asker: Asker) -> None:
    unread: list[Delta] = []

    def deliver(delta: Delta) -> bool:
        if len(unread) >= MOST_UNREAD and not delta.is_last:
            return False
        unread.append(delta)
        return True

    text = TextStream(asker.tokenizer)
    sampler = Sampler(Sampling(temperature=0.0), seed=0)
    sequence = Sequence(
        tuple(PROMPT), adapter=None, sampler=sampler, text=text, ends=frozenset(), most_tokens=1500, deliver=deliver
    )
    asker.engine.submit([sequence])
    asker.finish()
    assert len(unread) == MOST_UNREAD + 1
    assert unread[-1].error is not None


def test_ten_thousand_that_come_at_once_are_refused_beyond_the_bound(new_asker: Callable[..., Asker]) -> None:
    asker = new_asker(sequences=2, waiting=100)
    for _ in range(102):
        asker.begin(PROMPT, most_tokens=1)
    for _ in range(9_898):
        with pytest.raises(Refusal) as caught:
            asker.begin(PROMPT, most_tokens=1)
        assert (caught.value.http_status, caught.value.retry_after_seconds) == (429, 5)
    asker.finish()
    assert asker.ask(PROMPT, most_tokens=1).tokens


def test_an_answer_without_numbers_ends_and_its_neighbours_go_on(asker: Asker, tmp_path: Path) -> None:
    expected = asker.ask(PROMPT, adapter="a2", most_tokens=6).tokens
    _, broken = asker.begin([*PROMPT, 8], adapter="a1", most_tokens=6)
    _, whole = asker.begin(PROMPT, adapter="a2", most_tokens=6)
    asker.engine.step()
    held = next(sequence for sequence in asker.engine._active if sequence.adapter.name == "a1")
    held.place.cache.keys.fill_(float("nan"))
    asker.finish()
    assert broken.error.code == "model_gives_no_numbers"
    assert whole.tokens == expected


def test_a_step_that_fails_ends_its_answers_and_not_the_engine(asker: Asker, monkeypatch: pytest.MonkeyPatch) -> None:
    _, answer = asker.begin(PROMPT, adapter="a1")
    with monkeypatch.context() as patch:
        patch.setattr(asker.engine._model, "_forward", lambda *_, **__: 1 / 0)
        asker.engine.step()
    assert (answer.error.code, answer.error.http_status) == ("internal_error", 500)
    assert asker.ask(PROMPT, adapter="a1").tokens
    assert asker.engine.is_idle


def test_keys_and_values_stay_within_their_bound(new_asker: Callable[..., Asker]) -> None:
    source = random.Random(0)
    asker = new_asker(cache_bytes=100_000)
    answers = [asker.begin([source.randrange(3, 512) for _ in range(40)], most_tokens=20)[1] for _ in range(8)]
    while asker.engine.step():
        assert asker.engine.counts()["cache_bytes"] <= 100_000
    assert all(len(answer.tokens) == 20 for answer in answers)
    with pytest.raises(Refusal) as caught:
        asker.begin(PROMPT, most_tokens=1000)
    assert caught.value.param == "max_tokens"
