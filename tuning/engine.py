"""Switches and sizes that the planner counts with and the trainer runs by: both read them here, and nowhere else."""

from typing import NamedTuple

# Head and loss run in chunks of so many bytes of fp32 logits, on supervised tokens only; on a CPU a chunk should stay
# near the cache. Four times as many tokens where the head's weight learns: adding up its gradient has a fixed cost.
LOGITS_CHUNK_BYTES = {"cpu": 32 << 20, "cuda": 512 << 20}
SMALLEST_LOGITS_CHUNK_TOKENS = 64
CHUNKS_OF_A_LEARNING_HEAD = 4
# Several processes sum their gradients in pieces of about this size. The gradients themselves lie in them, so they add
# no more than 64 bytes of alignment a tensor, far below the slack.
GRADIENT_BUCKET_BYTES = 25 << 20
ZERO_BUCKET_ELEMENTS = 100_000_000
PERSISTENT_ROWS = 10  # of the hidden size: norms stay whole under stage 3, matrices do not


class ZeroSizes(NamedTuple):
    """How DeepSpeed's stages move weights and gradients, in elements."""

    reduced: int  # gradients that are summed at once, in one flat buffer
    gathered: int  # updated weights that stages 1 and 2 hand back at once
    live: int  # weights that stage 3 holds whole: the layer at work and the next, or the embedding
    prefetched: int  # weights that stage 3 asks for ahead of their use: the next layer's
    persistent: int  # weights of parameters up to this size stay whole under stage 3


def fuses(*, zero_stage: int, offload_optimizer: bool) -> bool:
    """Whether the trainer's own passes run: they read the weights of several modules at once, DeepSpeed hands out one.

    Where they do not, the modules of transformers and PEFT keep what those keep, and DeepSpeed's linears their input.
    """
    return zero_stage == 0 and not offload_optimizer


def shares_heads(capability: tuple[int, int] | None) -> bool:
    """Whether PyTorch's attention takes grouped heads as they are; `capability` is of the GPU, None of a CPU.

    Before 8.0 the one kernel that keeps no scores (memory-efficient attention) refuses them, and PyTorch would write
    all scores out (transformers #48633). So keys and values are repeated for each head there.
    """
    return capability is None or capability >= (8, 0)


def logits_chunk_tokens(*, device: str, vocab_size: int, is_learning: bool) -> int:
    """Tokens whose logits exist at once. `is_learning` is the head's weight, and only where the loss is supervised."""
    fitting = LOGITS_CHUNK_BYTES["cpu" if device == "cpu" else "cuda"] // (4 * vocab_size)
    return max(SMALLEST_LOGITS_CHUNK_TOKENS, fitting) * (CHUNKS_OF_A_LEARNING_HEAD if is_learning else 1)


def zero_sizes(
    *, parameters: int, trainable: int, layer_parameters: int, embedding_parameters: int, hidden_size: int
) -> ZeroSizes:
    """The sizes for a model with so many parameters in all, in what learns, in one layer and in its largest table.

    A layer is asked for while the one before it computes, so that its gathering hides behind that.
    """
    return ZeroSizes(
        reduced=min(ZERO_BUCKET_ELEMENTS, trainable),
        gathered=min(ZERO_BUCKET_ELEMENTS, parameters),
        live=max(2 * layer_parameters, embedding_parameters),
        prefetched=layer_parameters,
        persistent=PERSISTENT_ROWS * hidden_size,
    )
