"""`python -m benchmarks.growth`: what a run pays for the size of its file, before its steps and between them.

Lognormal rows of 300 tokens in the mean, 64 to a step, 8,192 tokens to a micro-step. `rows of a step` is asked for at
every step; `pack all` lays out every row, as an evaluation does; `canary` finds the largest micro-step of three epochs.
`before` is the way up to commit 7fece67, from its description: the epoch shuffled anew at each step, for each row a
scan of all micro-steps, for the canary 17 steps of each epoch. It is left out where it would take many minutes.

`python -m benchmarks.growth --conversations 100000`: a file of that many conversations, tokenised and kept in a cache,
then found there by a run that begins, and what a step's batch takes from each. Nothing is downloaded.
"""

import argparse
import json
import random
import tempfile
import time
from bisect import insort
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.balance import lognormal_lengths, rows_of
from benchmarks.training.workload import build_tokenizer
from tunesmith.tuning.plan import Plan
from tunesmith.worker.run_directory import RunDirectory
from tunesmith.worker.train.data.cache import RowCache, rows_key
from tunesmith.worker.train.data.order import RowOrder, epoch_order
from tunesmith.worker.train.data.packing import pack, plan_micro_steps
from tunesmith.worker.train.data.rows import load_rows
from tunesmith.worker.train.data.sharing import Sharing
from tunesmith.worker.train.loop.canary import largest_micro_step
from tunesmith.worker.train.models.model import load_tokenizer
from tunesmith.worker.train.recorder import Recorder

SIZES = (10_000, 100_000, 1_000_000)
ROWS_PER_STEP, TOKEN_BUDGET, EPOCHS = 64, 8_192, 3
LARGEST_BEFORE = {"pack all": 100_000}  # its time grows with the square of the rows


def main() -> None:
    """One of the two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--conversations", type=int, help="measure a file of so many instead")
    arguments = parser.parse_args()
    if arguments.conversations:
        measure_conversations(arguments.conversations)
        return
    print("| rows | | now | before |")
    print("|---|---|---|---|")
    for size in SIZES:
        for name, (now, before) in ways(size).items():
            old = "" if size > LARGEST_BEFORE.get(name, size) else _told(seconds(before))
            print(f"| {size:,} | {name} | {_told(seconds(now))} | {old} |", flush=True)


def ways(size: int) -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    """What to time, now and before."""
    lengths = lognormal_lengths(size, mean=300, longest=4_096)
    order = RowOrder(size, rows_per_step=ROWS_PER_STEP, seed=0)
    sharing = Sharing(rows_of(lengths), work=lengths.astype(np.float64))
    plan = Plan.model_construct(rows_per_step=ROWS_PER_STEP, epochs=EPOCHS, seed=0)
    total = EPOCHS * -(-size // ROWS_PER_STEP)
    search = partial(largest_micro_step, sharing, plan, token_budget=TOKEN_BUDGET, total_steps=total)
    return {
        "epoch in order": (lambda: epoch_order(size, seed=0, epoch=0), lambda: _shuffled(size, 0)),
        "rows of a step": (lambda: order.of_step(5), lambda: _shuffled(size, 0)[4 * ROWS_PER_STEP : 5 * ROWS_PER_STEP]),
        "pack all": (
            lambda: plan_micro_steps(range(size), lengths, token_budget=TOKEN_BUDGET),
            lambda: _packed_before(range(size), lengths),
        ),
        "canary": (search, lambda: _searched_before(lengths)),
    }


def seconds(work: Callable[[], Any]) -> float:
    """The best of three, or of one that takes long."""
    times: list[float] = []
    while len(times) < 3 and sum(times) < 5:
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def measure_conversations(count: int) -> None:
    """Seconds to tokenise, to keep, and to find again."""
    with tempfile.TemporaryDirectory(prefix="tunesmith-growth-") as root:
        model, file, run = Path(root) / "model", Path(root) / "rows.jsonl", RunDirectory(Path(root) / "run")
        run.root.mkdir()
        vocabulary = sorted(build_tokenizer(model).get_vocab())
        _write_conversations(file, count, words=[word.strip("Ġ") for word in vocabulary])
        tokenizer = load_tokenizer(model)
        settings = {"objective": "supervised"}
        began, cpu = time.perf_counter(), time.process_time()
        rows = load_rows(file, tokenizer=tokenizer, max_sequence_length=4_096, **settings)
        tokenised, cpu = time.perf_counter() - began, time.process_time() - cpu
        began = time.perf_counter()
        key = rows_key(file, model_folder=model, template=tokenizer.chat_template, settings=settings)
        named = time.perf_counter() - began
        cache = RowCache(run.tokens, shared=None, recorder=Recorder(run, active=False))
        began = time.perf_counter()
        cache.keep(rows, key, limit=4_096)
        kept = time.perf_counter() - began
        began = time.perf_counter()
        found = cache.find(key, limit=4_096)
        again = time.perf_counter() - began
        assert found is not None
        batch = seconds(lambda: pack(range(ROWS_PER_STEP), found, device=torch.device("cpu")))
        print(f"{count:,} conversations, {int(rows.lengths().sum()):,} tokens, {file.stat().st_size / 1e6:,.0f} MB:")
        print(f"tokenised in {tokenised:.1f} s ({cpu:.1f} s of processor), kept in {kept:.2f} s")
        print(f"found again in {named + again:.2f} s, {(named + again) / cpu:.1%} of that ({named:.2f} s for the key)")
        print(f"a batch of {ROWS_PER_STEP} rows laid out in {_told(batch)}")


def _write_conversations(file: Path, count: int, *, words: Sequence[str]) -> None:
    source = random.Random(0)
    with file.open("w", encoding="utf-8") as stream:
        for _ in range(count):
            said = [" ".join(source.choices(words, k=source.randint(10, 80))) for _ in range(2)]
            turns = [{"role": role, "content": text} for role, text in zip(("user", "assistant"), said, strict=True)]
            stream.write(json.dumps({"messages": turns}) + "\n")


def _shuffled(rows: int, epoch: int) -> list[int]:
    order = list(range(rows))
    random.Random(f"0:{epoch}").shuffle(order)
    return order


def _packed_before(chosen: Sequence[int], lengths: np.ndarray) -> list[list[int]]:
    """Best-fit decreasing, the room found by looking at every micro-step in turn."""
    micro_steps: list[list[int]] = []
    room: list[tuple[int, int]] = []
    for row in sorted(chosen, key=lambda row: -int(lengths[row])):
        needed = int(lengths[row])
        place = next((place for place, (left, _) in enumerate(room) if left >= needed), None)
        left, index = (TOKEN_BUDGET, len(micro_steps)) if place is None else room.pop(place)
        if place is None:
            micro_steps.append([])
        micro_steps[index].append(row)
        insort(room, (left - needed, index))
    return micro_steps


def _searched_before(lengths: np.ndarray) -> int:
    largest = 0
    for epoch in range(EPOCHS):
        order = _shuffled(len(lengths), epoch)
        steps = [order[start : start + ROWS_PER_STEP] for start in range(0, len(order), ROWS_PER_STEP)]
        heaviest = np.argsort([-int(lengths[rows].sum()) for rows in steps], kind="stable")[:16]
        longest = int(np.argmax([int(lengths[rows].max()) for rows in steps]))
        for step in (longest, *heaviest):
            for rows in _packed_before(steps[step], lengths):
                largest = max(largest, int(lengths[rows].sum()))
        if largest >= 0.98 * TOKEN_BUDGET:
            break
    return largest


def _told(value: float) -> str:
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if value * factor >= 1:
            return f"{value * factor:.1f} {unit}"
    return f"{value * 1e6:.1f} µs"


if __name__ == "__main__":
    main()
