"""The workload both sides train on: a SmolLM2-shaped model with random weights and 64 rows of very different lengths.

    python -m benchmarks.training.workload OUT_DIR

Speed does not depend on what the weights say, so nothing is downloaded. Row lengths are lognormal (mean about 170
tokens, as in chat data); 40 % of each row is supervised. `rows.jsonl` is what a user would upload; `tokens.jsonl`
holds the very same rows as token ids and completion mask, for peers that take tokenised rows: both sides see the same
tokens or the run is void.
"""

import json
import random
import sys
from pathlib import Path

ROWS = 64
MEAN_LOG, SIGMA_LOG, LONGEST = 4.85, 0.8, 1024
SUPERVISED_SHARE = 0.4
SMOLLM2_135M = {
    "hidden_size": 576,
    "layers": 30,
    "intermediate_size": 1536,
    "heads": 9,
    "key_value_heads": 3,
    "vocabulary": 49152,
}


def build(folder: Path, *, seed: int = 0) -> None:
    """Write model/, rows.jsonl and tokens.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer(folder / "model")
    _build_model(folder / "model", seed=seed)
    random_source = random.Random(seed)
    vocabulary = [
        token for token, index in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]) if index > 300
    ]
    rows = []
    while len(rows) < ROWS:
        length = min(LONGEST, max(16, round(random_source.lognormvariate(MEAN_LOG, SIGMA_LOG))))
        words = tokenizer.decode(
            [tokenizer.get_vocab()[random_source.choice(vocabulary)] for _ in range(length)]
        ).split()
        cut = round(len(words) * (1 - SUPERVISED_SHARE))
        prompt, completion = " ".join(words[:cut]), " " + " ".join(words[cut:])
        rows.append({"prompt": prompt, "completion": completion})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    _write_tokens(folder, tokenizer)


def _write_tokens(folder: Path, tokenizer) -> None:
    from tunesmith.worker.train.data.rows import (
        load_rows,  # the product's own tokenisation is the reference for both sides
    )

    tokenised = load_rows(
        folder / "rows.jsonl", tokenizer=tokenizer, objective="supervised", max_sequence_length=LONGEST * 2
    )
    with (folder / "tokens.jsonl").open("w") as file:
        for row in range(len(tokenised)):
            for ids, marks in tokenised.sequences(row):
                file.write(
                    json.dumps({"input_ids": ids.tolist(), "completion_mask": marks.astype(int).tolist()}) + "\n"
                )


def build_tokenizer(folder: Path):
    import sysconfig

    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    library = Path(sysconfig.get_path("stdlib"))
    texts = [path.read_text(errors="replace") for path in sorted(library.glob("*.py"))[:40]]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=8_000,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    fast.save_pretrained(folder)
    return fast


def _build_model(folder: Path, *, seed: int) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    shape = SMOLLM2_135M
    config = LlamaConfig(
        vocab_size=shape["vocabulary"],
        hidden_size=shape["hidden_size"],
        intermediate_size=shape["intermediate_size"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        num_key_value_heads=shape["key_value_heads"],
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)


if __name__ == "__main__":
    build(Path(sys.argv[1]))
