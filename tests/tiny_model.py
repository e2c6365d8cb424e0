"""A real but tiny Llama folder (under a million parameters): from a config, with a tokenizer trained on the spot."""

import json
from collections.abc import Iterable
from pathlib import Path

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + (message['content'] or '') + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEXTS = (
    "The quick brown fox jumps over the lazy dog. What is the capital of France? It is Paris.",
    "def add(first, second): return first + second",
    "system user assistant tool You are a helpful assistant. Reply with one short sentence.",
    "0 1 2 3 4 5 6 7 8 9 zero one two three four five six seven eight nine ten",
)


def build_tiny_model(
    folder: Path,
    *,
    seed: int = 0,
    texts: Iterable[str] = TEXTS,
    chat_template: str | None = CHAT_TEMPLATE,
    hidden_size: int = 64,
    layers: int = 2,
    vocabulary_size: int = 512,
) -> Path:
    """Write config, seeded fp32 weights, tokenizer and chat template to `folder`, in about a second; returns it."""
    import torch
    from transformers.models.llama.configuration_llama import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    _save_tokenizer(folder, texts=texts, vocabulary_size=vocabulary_size, chat_template=chat_template)
    config = LlamaConfig(
        vocab_size=vocabulary_size,
        hidden_size=hidden_size,
        intermediate_size=hidden_size * 2,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def build_tokenizer(folder: Path) -> Path:
    """Only tokenizer and chat template, without torch; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    _save_tokenizer(folder, texts=TEXTS, vocabulary_size=512, chat_template=CHAT_TEMPLATE)
    return folder


def _save_tokenizer(folder: Path, *, texts: Iterable[str], vocabulary_size: int, chat_template: str | None) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(list(texts), trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "model_max_length": 2048,
    }
    if chat_template:
        settings["chat_template"] = chat_template
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")
