"""`python -m benchmarks.serving.ours ADAPTERS...`: our engine, in this process."""

import json
import sys
import tempfile
import threading
import time
from pathlib import Path

from tunesmith.worker.train import environment  # noqa: F401 - before torch  # isort: skip
import torch
from safetensors.torch import save_file

from benchmarks.serving import workload
from tunesmith.worker.inference.engine.answering.engine import Engine, Limits
from tunesmith.worker.inference.engine.answering.outbox import Delta
from tunesmith.worker.inference.engine.answering.sampling import Sampler, Sampling
from tunesmith.worker.inference.engine.answering.sequence import Sequence
from tunesmith.worker.inference.engine.answering.text import TextStream
from tunesmith.worker.inference.engine.compute.model import BatchModel
from tunesmith.worker.train.models.model import load_tokenizer


class Reader:
    """Notes when the tokens of one answer came."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.is_over = threading.Event()

    def __call__(self, delta: Delta) -> bool:
        self.times.extend(time.perf_counter() for _ in delta.drawn)
        if delta.is_last:
            self.is_over.set()
        return True


class Asker:
    """Asks an engine that runs in a thread of its own, or is stepped by hand."""

    def __init__(self, folder: Path, *, is_run: bool = True) -> None:
        model = BatchModel.load(folder)
        self.linears = model.base.linears
        self.engine = Engine(model, limits=Limits(prefix_bytes=0, adapter_bytes=4 * 1024**3))
        self._tokenizer = load_tokenizer(folder)
        if is_run:
            threading.Thread(target=self.engine.run, daemon=True).start()

    def begin(self, prompt: list[int], *, adapter: str, tokens: int) -> tuple[Sequence, Reader]:
        reader = Reader()
        sequence = Sequence(
            tuple(prompt),
            adapter=self.engine.residents.hold(adapter),
            sampler=Sampler(Sampling(temperature=0.0), seed=0),
            text=TextStream(self._tokenizer),
            ends=frozenset(),
            most_tokens=tokens,
            deliver=reader,
        )
        return sequence, reader

    def ask(self, asks: list[tuple[list[int], str]], *, tokens: int) -> list[Reader]:
        begun = [self.begin(prompt, adapter=adapter, tokens=tokens) for prompt, adapter in asks]
        self.engine.submit([sequence for sequence, _ in begun])
        for _, reader in begun:
            reader.is_over.wait()
        return [reader for _, reader in begun]


def main() -> None:
    memory = workload.Memory()
    asker = Asker(workload.model_folder())
    loaded = 0
    with tempfile.TemporaryDirectory() as folder:
        for adapters in sorted(map(int, sys.argv[1:])):
            for index in range(loaded, adapters):
                load_adapter(asker, Path(folder) / "adapter", index)
            loaded = adapters
            asker.ask(_asks(workload.WRITING, adapters=adapters, wave=0), tokens=2)  # pages are there
            for wave, load in enumerate(workload.LOADS, start=1):
                _measure(asker, adapters, load=load, wave=wave, memory=memory)


def _measure(asker: Asker, adapters: int, *, load: workload.Load, wave: int, memory: workload.Memory) -> None:
    asks = _asks(load, adapters=adapters, wave=wave)
    clock, began = workload.Clock.start(), time.perf_counter()
    readers = asker.ask(asks, tokens=load.new_tokens)
    seconds, cpu_seconds = clock.seconds()
    firsts = sorted(reader.times[0] - began for reader in readers)
    alone = [_first_token(asker) for _ in range(3)]
    workload.tell(
        "ours",
        adapters,
        load,
        tokens_per_second=len(readers) * load.new_tokens / seconds,
        tokens_per_cpu_second=len(readers) * load.new_tokens / cpu_seconds,
        first_token_seconds=firsts[len(firsts) // 2],
        idle_first_token_seconds=min(seconds for seconds, _ in alone),
        idle_first_token_cpu_seconds=min(cpu_seconds for _, cpu_seconds in alone),
        over_base_bytes=memory.over_base_bytes(workload.BASE_BYTES),
        adapter_bytes=asker.engine.counts()["adapter_bytes"],
        lane_bytes=asker.engine.counts()["lane_bytes"],
    )


def _asks(load: workload.Load, *, adapters: int, wave: int) -> list[tuple[list[int], str]]:
    """Each wave asks for the next adapters, so that what the last one left is of use only where it would be."""
    first = wave * workload.REQUESTS
    return [
        (prompt, f"a{workload.adapter_of(first + index, adapters=adapters)}")
        for index, prompt in enumerate(load.prompts())
    ]


def _first_token(asker: Asker) -> tuple[float, float]:
    clock = workload.Clock.start()
    asker.ask([(workload.short_prompt(), "a0")], tokens=1)
    return clock.seconds()


def load_adapter(asker: Asker, folder: Path, index: int) -> None:
    folder.mkdir(exist_ok=True)
    source = torch.Generator().manual_seed(index)
    tensors = {}
    for name, (rows, columns) in asker.linears.items():
        key = f"base_model.model.{name}"
        tensors[f"{key}.lora_A.weight"] = torch.randn(workload.RANK, columns, generator=source) * 0.02
        tensors[f"{key}.lora_B.weight"] = torch.randn(rows, workload.RANK, generator=source) * 0.02
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": workload.RANK, "lora_alpha": workload.ALPHA}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    asker.engine.residents.load(f"a{index}", folder)


if __name__ == "__main__":
    main()
