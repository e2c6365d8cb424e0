"""What a model can be exported as."""

from enum import StrEnum


class ExportForm(StrEnum):
    """Whom the model is for."""

    VLLM = "vllm"
    TRANSFORMERS = "transformers"
    GGUF = "gguf"


class GgufType(StrEnum):
    """How a GGUF file keeps its weights."""

    F32 = "f32"
    F16 = "f16"
    BF16 = "bf16"
    Q8_0 = "q8_0"
