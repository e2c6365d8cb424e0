"""TRL's SFTTrainer on the same rows, in an environment of its own. Prints one JSON line.

    PEER_PYTHON peer_trl.py WORKLOAD_DIR --settings default|best --method lora|full

`default` is what a user gets who writes SFTTrainer(model, dataset, peft_config); `best` is what helps on a CPU: bf16
weights, rows grouped by length, no recomputation. Batch, learning rate, rank, targets and clipping are those of the
other side.
"""

import argparse
import json
import resource
import time
from pathlib import Path

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer


class Stopwatch(TrainerCallback):
    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_begin(self, *_: object, **__: object) -> None:
        if not self.ends:
            self.ends.append(time.perf_counter())

    def on_step_end(self, *_: object, **__: object) -> None:
        self.ends.append(time.perf_counter())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("workload", type=Path)
    parser.add_argument("--settings", choices=("default", "best"), required=True)
    parser.add_argument("--method", choices=("lora", "full"), default="lora")
    parser.add_argument("--rows-per-step", type=int, default=8)
    parser.add_argument("--output", type=Path, default=Path("trl-output"))
    arguments = parser.parse_args()
    best = arguments.settings == "best"
    rows = [json.loads(line) for line in (arguments.workload / "tokens.jsonl").open()]
    tokenizer = AutoTokenizer.from_pretrained(arguments.workload / "model")
    model = AutoModelForCausalLM.from_pretrained(
        arguments.workload / "model", dtype=torch.bfloat16 if best else torch.float32
    )
    extra = {"gradient_checkpointing": False, "train_sampling_strategy": "group_by_length"} if best else {}
    config = SFTConfig(
        output_dir=str(arguments.output),
        num_train_epochs=1,
        per_device_train_batch_size=arguments.rows_per_step,
        learning_rate=2e-4 if arguments.method == "lora" else 2e-5,
        lr_scheduler_type="linear",
        warmup_steps=0,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        completion_only_loss=True,
        max_length=4096,
        use_cpu=True,
        seed=0,
        **extra,
    )
    peft_config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear") if arguments.method == "lora" else None
    trainer = SFTTrainer(
        model=model,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=peft_config,
    )
    real_tokens: list[int] = []
    supervised: list[int] = []
    collate = trainer.data_collator

    def counting(examples: list[dict[str, object]]) -> dict[str, torch.Tensor]:
        batch = collate(examples)
        real_tokens.append(
            int(batch["attention_mask"].sum()) if "attention_mask" in batch else batch["input_ids"].numel()
        )
        supervised.append(int((batch["labels"] != -100).sum()))
        return batch

    trainer.data_collator = counting
    stopwatch = Stopwatch()
    trainer.add_callback(stopwatch)
    trainer.train()
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    steps = [later - earlier for earlier, later in zip(stopwatch.ends, stopwatch.ends[1:], strict=False)]
    print(
        json.dumps(
            {
                "side": f"trl-{arguments.settings}",
                "step_tokens": real_tokens,
                "step_supervised": supervised,
                "step_seconds": [round(seconds, 3) for seconds in steps],
                "losses": [entry["loss"] for entry in history],
                "gradient_norms": [float(entry["grad_norm"]) for entry in history],
                "trainable_parameters": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
                "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            }
        )
    )


if __name__ == "__main__":
    main()
