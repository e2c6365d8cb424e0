"""The attention that a model has of its own: for families whose rows cannot be packed, and for generation."""

import contextlib
from collections.abc import Iterator

from transformers import PreTrainedModel

from tunesmith.tuning.models.packing import OwnAttention


def use_attention(model: PreTrainedModel, attention: str) -> None:
    """Let the model attend by a named implementation.

    Classes from before transformers' attention interface have one implementation, which they keep; but what builds
    their masks goes by the name in the configuration, so it is set there too.
    """
    if model._can_set_attn_implementation():  # noqa: SLF001 - set anyway, transformers warns every time
        with contextlib.suppress(ValueError, NotImplementedError, AttributeError):
            model.set_attn_implementation(attention)
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            module.config._attn_implementation_internal = attention  # noqa: SLF001 - there is no other way to set it


def attention_for_generation(model: PreTrainedModel) -> OwnAttention:
    """PyTorch's, unless the model has scores that it cannot compute."""
    config = model.config.get_text_config()
    has_capped_scores = getattr(config, "attn_logit_softcapping", None) is not None
    return "sdpa" if model._supports_sdpa and not has_capped_scores else "eager"  # noqa: SLF001 - transformers' own mark


@contextlib.contextmanager
def attending(model: PreTrainedModel, attention: str, *, afterwards: str) -> Iterator[None]:
    """Within this the model attends by one implementation, afterwards by another."""
    use_attention(model, attention)
    try:
        yield
    finally:
        use_attention(model, afterwards)
