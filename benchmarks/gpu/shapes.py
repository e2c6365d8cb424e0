"""Models of real sizes with random weights, made on the device, and packed batches for them. Nothing is downloaded."""

from typing import Any

from tunesmith.tuning.estimates.memory import Setup
from tunesmith.tuning.models.catalogue import CONFIGS
from tunesmith.tuning.models.shape import ModelShape
from tunesmith.tuning.words import Method

TINY: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "vocab_size": 512,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": True,
}
RANK = 16
STARTING_RATE = 1e-4


def config_of(name: str, *, tiny: bool) -> dict[str, Any]:
    """`8b`, some of its layers, or `1b` of the Llama 3 family, or something tiny in their place."""
    if tiny:
        return TINY if name == "1b" else {**TINY, "num_hidden_layers": 3}
    wanted = {"8b": "llama-3.1-8b", "8b, 8 layers": "llama-3.1-8b", "1b": "llama-3.2-1b"}[name]
    config = {key: value for key, value in CONFIGS[wanted].items() if value is not None}
    return config | ({"num_hidden_layers": 8} if "layers" in name else {})


def shape_of(name: str, *, tiny: bool) -> ModelShape:
    """As the planner sees it."""
    return ModelShape.from_config(config_of(name, tiny=tiny))


def build(config: dict[str, Any], *, method: str, device: str, attention: str, float8: bool = False) -> Any:
    """A `Learner` in train mode with our passes, as the trainer assembles it: `full`, `lora` or `qlora`."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from tunesmith.worker.train.adapters.fuse import fuse
    from tunesmith.worker.train.attention import packed
    from tunesmith.worker.train.models.model import Learner

    packed.register()
    known = AutoConfig.for_model(**config)
    known.use_cache = False
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            known, dtype=torch.bfloat16, attn_implementation=packed.PACKED if attention != "library" else "sdpa"
        )
    fill(model, config, device=device)
    if method == "qlora":
        in_four_bits(model, device=device)
    if method == "full":
        model.requires_grad_(True)
    else:
        model = adapted(model)
    if attention == "library":
        return model.train()
    fuse(model)
    if float8:
        hold(model, device=device)
    return Learner(model, attention=attention).train()  # type: ignore[arg-type]


def fill(model: Any, config: dict[str, Any], *, device: str) -> None:
    """Random weights on the device, small enough for finite losses; buffers as the library computes them."""
    import torch
    from transformers import AutoConfig

    generator = torch.Generator(device).manual_seed(0)
    for module in model.modules():
        for name, value in list(module.named_parameters(recurse=False)):
            filled = torch.empty(value.shape, dtype=value.dtype, device=device).normal_(0, 0.02, generator=generator)
            setattr(module, name, torch.nn.Parameter(filled.add_(1.0) if value.dim() == 1 else filled))
        if any(buffer.is_meta for buffer in module.buffers(recurse=False)):  # rotary angles
            fresh = type(module)(config=AutoConfig.for_model(**config))
            module._buffers = {name: buffer.to(device) for name, buffer in fresh.named_buffers()}
    model.tie_weights()


def adapted(model: Any) -> Any:
    """With LoRA of rank 16 on all linear modules."""
    from tunesmith.tuning.plan import Lora
    from tunesmith.worker.train.adapters.adapter import attach_adapter

    numbers = Lora(rank=RANK, alpha=32, dropout=0.0, target_modules="all-linear", trainable_parameters=1)
    return attach_adapter(model, numbers, continue_from=None, seed=0)


def in_four_bits(model: Any, *, device: str) -> None:
    """Replace the linears inside the layers by bitsandbytes' NF4 ones, without reading a file."""
    import torch
    from bitsandbytes.nn import Linear4bit, Params4bit

    head = model.get_output_embeddings()
    for parent in list(model.modules()):
        for name, linear in list(parent.named_children()):
            if isinstance(linear, torch.nn.Linear) and linear is not head:
                narrow = Linear4bit(
                    linear.in_features,
                    linear.out_features,
                    bias=linear.bias is not None,
                    compute_dtype=torch.bfloat16,
                    compress_statistics=True,
                    quant_type="nf4",
                )
                narrow.weight = Params4bit(
                    linear.weight.data.to("cpu"), requires_grad=False, quant_type="nf4", compress_statistics=True
                )
                narrow.bias = linear.bias
                setattr(parent, name, narrow.to(device))


def hold(model: Any, *, device: str) -> None:
    """The base in 8-bit floating point; an exception where the device cannot."""
    import torch

    from tunesmith.worker.train.adapters.float8_base import hold_in_float8, problem_of

    problem = problem_of(torch.device(device))
    if problem is not None:
        raise RuntimeError(problem)
    hold_in_float8(model, device=torch.device(device), recorder=_Silent())  # type: ignore[arg-type]


class _Silent:
    def event(self, *_: object, **__: object) -> None: ...


def batch(lengths: list[int], *, vocabulary: int, device: str, supervised: float = 1.0) -> Any:
    """Packed rows of random tokens; the last share of each row has loss."""
    import torch

    from tunesmith.worker.train.attention.segments import Segments
    from tunesmith.worker.train.data.packing import PackedBatch

    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(3, vocabulary, (1, sum(lengths)), generator=generator)
    starts = torch.tensor([0, *lengths]).cumsum(0)[:-1].tolist()
    targets = torch.cat(
        [
            torch.arange(start + int((length - 1) * (1 - supervised)), start + length - 1)
            for start, length in zip(starts, lengths, strict=True)
        ]
    )
    where = torch.device(device)
    return PackedBatch(
        input_ids=tokens.to(where),
        position_ids=torch.cat([torch.arange(length) for length in lengths])[None].to(where),
        target_positions=targets.to(where),
        labels=tokens[0, targets + 1].to(where),
        target_sequences=torch.zeros_like(targets).to(where),
        segments=Segments.of(lengths, device=where),
        rows=(0,),
    )


def setup_of(method: str, *, device: str, tokens: int, checkpointing: str, float8: bool = False) -> Setup:
    """As the planner would describe what `build` builds."""
    return Setup(
        method=Method(method),
        device="cuda" if device == "cuda" else "cpu",
        precision="bf16",
        tokens_per_micro_step=tokens,
        checkpointing=checkpointing,  # type: ignore[arg-type]
        rank=0 if method == "full" else RANK,
        double_quantization=method == "qlora",
        fused_passes=True,
        float8_base=float8,
    )


def optimizer_of(learner: Any, *, method: str, processes: int = 1) -> Any:
    """The trainer's own, over what learns."""
    from types import SimpleNamespace

    from tunesmith.worker.train.optim.optimizer import MasterOptimizer

    plan = SimpleNamespace(
        weight_decay=0.0, optimizer="adamw", learning_rate=STARTING_RATE, method=method, sharded_base=False
    )
    return MasterOptimizer(learner.trainable(), plan=plan, processes=processes)  # type: ignore[arg-type]


def best_attention(config: dict[str, Any], *, device: str) -> str:
    """What the trainer would choose here, by its own trial."""
    import torch

    from tunesmith.tuning.search.attention_kernel import ladder
    from tunesmith.worker.train.attention.choice import find_attention

    planned = ladder(on_gpu=device == "cuda")[0]
    shape = ModelShape.from_config(config)
    return find_attention(planned, shape, device=torch.device(device), precision="bf16").attention
