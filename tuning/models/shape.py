"""The sizes of a model, read from its config.json without weights: exact parameter counts and dimensions."""

from functools import cached_property
from typing import Any, Literal

from pydantic import Field, ValidationError

from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import InvalidRequest
from tunesmith.tuning.models import families
from tunesmith.tuning.models.config_reader import LARGEST_DIMENSION, ConfigReader, as_json
from tunesmith.tuning.models.linears import Linear, Targets, closes, is_target
from tunesmith.tuning.models.packing import OwnAttention, attention_alone, require_causal
from tunesmith.tuning.models.vision import siglip_parameters
from tunesmith.tuning.values.base import Value

MEASURED_SHAPE = "tunesmith_shape"  # key in a stored config: the shape of a family without formulas, as measured
MEASURED_RANK = 16


class MeasuredActivations(Value):
    """Bytes that one layer saves for one token when nothing is recomputed, counted on the model itself.

    Adapters are of `MEASURED_RANK` on all linear modules, without dropout, beside a fused attention kernel.
    """

    full_16bit: float = Field(gt=0)
    full_32bit: float = Field(gt=0)
    lora_16bit: float = Field(gt=0)
    lora_32bit: float = Field(gt=0)

    def of(self, *, full: bool, width_bytes: int) -> float:
        """By what learns and the width of an activation."""
        if full:
            return self.full_16bit if width_bytes == 2 else self.full_32bit
        return self.lora_16bit if width_bytes == 2 else self.lora_32bit


class ModelShape(Value):
    """Dimensions of one causal language model.

    `linears` holds every matrix inside the layers; embeddings and head are apart because nothing quantises or adapts
    them. Counts equal those of the model class of `transformers`, tested for every family.
    """

    family: str
    layers: int
    hidden_size: int
    query_size: int  # heads x head_dim, which need not be the hidden size
    key_value_size: int  # key-value heads x head_dim, of keys alone
    heads: int
    intermediate_size: int  # what one token passes through in one layer, summed over its experts
    vocab_size: int
    context_length: int
    tied_head: bool
    linears: tuple[Linear, ...]
    norm_parameters: int
    norm: Literal["rms", "gemma", "layer"] = "rms"
    norm_inputs: int = 2  # different tensors that the norms of one layer read
    query_key_norm: bool = False
    score_softcap: float | None = None  # scores of attention are bounded to it by tanh
    attention_sinks: bool = False  # every head has one more score, whose weight goes nowhere
    shared_norm_output: bool = False  # attention and MLP read the output of one norm
    fused_qkv: Literal["no", "split", "rotated"] = "no"  # one projection; are q and k rotated into tensors of their own
    activation_tensors: int = 3  # of the MLP's width, kept by its activation function and gate
    position_parameters: int = 0
    head_bias: bool = False
    outside_parameters: int = 0  # of parts that see: loaded, never trained
    measured: MeasuredActivations | None = None  # of a family that `tuning.models.families` does not know, if it can be

    @classmethod
    def from_config(cls, config: dict[str, Any], *, measured: "ModelShape | None" = None) -> "ModelShape":
        """Read a Hugging Face config.json. `measured` came beside it, of a family without formulas, and holds alone.

        Raises:
            InvalidRequest: `config.<field>` is missing or absurd, or the family is unknown or no causal language model.
        """
        if measured is not None:
            return measured
        require_causal(config)
        config = as_json(config)
        reader = ConfigReader(config)
        family = reader.model_type
        if family in families.MULTIMODAL:
            return cls._with_eyes(reader, family=families.MULTIMODAL[family])
        if family not in families.READERS and MEASURED_SHAPE in config:
            return _measured(config[MEASURED_SHAPE])
        if family not in families.READERS:
            raise InvalidRequest(
                f"The model family {family!r} is not known to the planner.",
                code=ErrorCode.UNKNOWN_MODEL_FAMILY,
                param="config.model_type",
                hint="`tunesmith models add` measures its shape where the trainer's libraries are installed "
                f"(pip install 'tunesmith[worker]'). Known families: {', '.join(sorted(families.READERS))}.",
            )
        reader.check_numbers()
        shape = cls(family=family, **families.READERS[family](reader))
        reader.token("pad_token_id", below=shape.vocab_size)
        return shape

    @classmethod
    def _with_eyes(cls, reader: ConfigReader, *, family: str) -> "ModelShape":
        text, vision = (reader.nested(part) or ConfigReader({}) for part in ("text_config", "vision_config"))
        sizes = families.READERS[family](text)
        seeing = siglip_parameters(vision, hidden_size=sizes["hidden_size"])
        return cls(family=family, outside_parameters=seeing, **sizes)

    def __hash__(self) -> int:
        """Cheap, because memory formulas are remembered by shape; equal shapes have equal counts."""
        return hash((self.family, self.hidden_size, self.layers, self.parameters))

    @property
    def attention_alone(self) -> OwnAttention | None:
        """What it attends by if its rows cannot be packed."""
        return attention_alone(self.family)

    @cached_property
    def linear_weights(self) -> int:
        """Entries of all matrices inside the layers."""
        return sum(linear.weights for linear in self.linears)

    @cached_property
    def quantizable_weights(self) -> int:
        """Entries that 4-bit quantisation reaches: matrices that are modules of their own."""
        return sum(linear.weights for linear in self.linears if linear.module and linear.role != "head")

    @cached_property
    def active_linear_weights(self) -> int:
        """Entries inside the layers that one token is multiplied with."""
        return sum(linear.active_weights for linear in self.linears)

    @cached_property
    def embedding_parameters(self) -> int:
        """Token embedding and, unless they share, the head."""
        return self.vocab_size * self.hidden_size * (1 if self.tied_head else 2)

    @cached_property
    def parameters(self) -> int:
        """Every parameter of the text part, a tied head counted once."""
        biases = sum(linear.biases for linear in self.linears) + (self.vocab_size if self.head_bias else 0)
        others = self.norm_parameters + self.position_parameters
        return self.linear_weights + biases + self.embedding_parameters + others

    @cached_property
    def largest_linear(self) -> int:
        """Entries of the largest single matrix that 4-bit weights are expanded into."""
        return max(linear.in_features * linear.out_features for linear in self.linears if linear.module)

    def targets(self, targets: Targets) -> tuple[Linear, ...]:
        """The matrices that an adapter goes on."""
        if targets not in self.target_lists:
            self.target_lists[targets] = tuple(linear for linear in self.linears if is_target(linear, targets))
        return self.target_lists[targets]

    def adapter_parameters(self, *, rank: int, targets: Targets) -> int:
        """Trainable parameters of a LoRA adapter."""
        key = (rank, targets)
        if key not in self.adapter_counts:
            self.adapter_counts[key] = sum(linear.adapter_parameters(rank) for linear in self.targets(targets))
        return self.adapter_counts[key]

    def sleeping_adapter_parameters(self, *, rank: int, targets: Targets) -> int:
        """Of those, the ones that one token leaves out: on experts that it is not sent to."""
        key = (rank, targets)
        if key not in self.sleeping_counts:
            chosen = [linear for linear in self.targets(targets) if linear.active_copies is not None]
            sleeping = (linear.adapter_parameters(rank) - linear.active_adapter_parameters(rank) for linear in chosen)
            self.sleeping_counts[key] = sum(sleeping)
        return self.sleeping_counts[key]

    @cached_property
    def target_lists(self) -> dict[Targets, tuple[Linear, ...]]:
        """Targets that were asked for: a plan asks some hundred times."""
        return {}

    @cached_property
    def adapter_counts(self) -> dict[tuple[int, Targets], int]:
        """Those of adapters that were asked for: a plan asks some hundred times."""
        return {}

    @cached_property
    def sleeping_counts(self) -> dict[tuple[int, Targets], int]:
        """The same of what one token leaves out."""
        return {}

    @cached_property
    def wide_mlp_weights(self) -> int:
        """Entries of MLPs and experts that one token is multiplied with, without the last matrix of each."""
        return sum(linear.active_weights for linear in self._inside_mlps if not closes(linear))

    @cached_property
    def mlp_weights(self) -> int:
        """The same with the last."""
        return sum(linear.active_weights for linear in self._inside_mlps)

    @property
    def _inside_mlps(self) -> list[Linear]:
        return [linear for linear in self.linears if linear.role in ("mlp", "expert", "router")]


def is_known(config: dict[str, Any]) -> bool:
    """Whether there are formulas for the family of this config, or it carries its measured shape."""
    family = config.get("model_type")
    return family in families.READERS or family in families.MULTIMODAL or MEASURED_SHAPE in config


def _measured(stored: Any) -> ModelShape:
    try:
        shape = ModelShape.model_validate(stored)
    except ValidationError as error:
        raise _broken(error.errors()[0]["msg"]) from None
    sizes = [shape.layers, shape.hidden_size, shape.query_size, shape.key_value_size, shape.heads, shape.vocab_size]
    sizes += [shape.intermediate_size, shape.context_length, len(shape.linears)]
    sizes += [size for linear in shape.linears for size in (linear.in_features, linear.out_features, linear.copies)]
    if not all(1 <= size <= LARGEST_DIMENSION for size in sizes):
        raise _broken("a size is absurd")
    return shape


def _broken(reason: str) -> InvalidRequest:
    return InvalidRequest(
        f"The measured shape in the model's config is broken: {reason}.",
        code=ErrorCode.INVALID_MODEL_CONFIG,
        param=f"config.{MEASURED_SHAPE}",
        hint="Register the model again with `tunesmith models add`.",
    )
