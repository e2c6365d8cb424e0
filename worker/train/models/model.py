"""The base model and its tokenizer from a local folder, and `Learner`: the model as the loop sees it."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.models.packing import OwnAttention
from tunesmith.tuning.models.shape import is_known
from tunesmith.tuning.models.weights import check_weights
from tunesmith.tuning.plan import Attention, Plan
from tunesmith.worker.train.attention import packed as attention
from tunesmith.worker.train.attention.segments import Segments
from tunesmith.worker.train.data.packing import PackedBatch
from tunesmith.worker.train.data.rows import Rows
from tunesmith.worker.train.failures import is_out_of_memory, user_error
from tunesmith.worker.train.kernels.loss import Head
from tunesmith.worker.train.kernels.rebuild import rebuilding
from tunesmith.worker.train.models.dropouts import without_dropout
from tunesmith.worker.train.models.heap import forget_peak, leave_file, tidy_heap
from tunesmith.worker.train.models.own_attention import use_attention
from tunesmith.worker.train.models.rope import depend_on_own_row
from tunesmith.worker.train.models.text_part import decoder_of, layers_of

LossFunction = Callable[
    [torch.Tensor, torch.Tensor, Head], Any
]  # hidden [targets, hidden size], labels [targets], head
_LOGIT_CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")  # Gemma, RecurrentGemma, xLSTM
# What classes of transformers raise over files that they cannot use; an assertion is PyTorch's, of a padding token.
_UNLOADABLE = (
    ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, OSError, RuntimeError, TypeError,
    ValueError,
)  # fmt: skip
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder.

    Raises:
        JobFailure: `broken_model`.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise _broken(folder, f"its tokenizer cannot be loaded ({_first_line(error)})") from error
    if not tokenizer.is_fast:
        raise _broken(folder, "its tokenizer has no tokenizer.json")
    return tokenizer


def load_model(folder: Path, *, plan: Plan, device: torch.device) -> PreTrainedModel:
    """The causal language model of a folder, in the plan's precision and quantisation, ready for packed batches.

    Each weight is read from the file straight to the device: of several processes none holds the model in host memory.
    ZeRO stage 3 shares the weights out while they load, and finds their places itself; a sharded 4-bit base is shared
    out layer by layer (`worker.train.models.sharded_base`).

    Raises:
        JobFailure: `broken_model` when files are missing, altered or not a causal language model.
    """
    attention.register()
    quantises_here = plan.quantization is not None and device.type == "cpu"
    try:
        with tidy_heap() if quantises_here else contextlib.nullcontext():
            model, report = _load(folder, plan=plan, device=device)
            if quantises_here:
                leave_file(model)
    except _UNLOADABLE as error:
        if is_out_of_memory(error):
            raise
        raise _broken(folder, f"it cannot be loaded ({_why(error)})") from error
    except Exception as error:  # safetensors raises an error of its own kind for a damaged file
        if type(error).__module__.startswith("safetensors"):
            raise _broken(folder, f"its weights are damaged ({_first_line(error)})") from error
        raise
    missing = sorted(report["missing_keys"]) + [str(item[0]) for item in report["mismatched_keys"]]
    if missing:
        raise _broken(folder, f"{len(missing)} weights are missing or of another shape, the first is {missing[0]}")
    if plan.quantization:
        _keep_differentiable(model)
    if quantises_here:
        forget_peak()
    if plan.zero_stage == 3:
        model.to(device)  # its buffers; the weights lie there already
    model.config.use_cache = False
    return model


def load_plainly(folder: Path, *, dtype: torch.dtype) -> PreTrainedModel:
    """The same for answering alone: whole, on the host, with its library's own attention.

    Raises:
        JobFailure: `broken_model`.
    """
    try:
        model: PreTrainedModel = auto_class(load_config(folder)).from_pretrained(
            folder, dtype=dtype, local_files_only=True, trust_remote_code=False, use_safetensors=True
        )
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise _broken(folder, f"it cannot be loaded ({_first_line(error)})") from error
    return model


def load_config(folder: Path) -> PretrainedConfig:
    """The model's own settings, as its class reads them.

    Raises:
        OSError, ValueError, ...: whatever the class makes of them.
    """
    return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def auto_class(config: PretrainedConfig) -> Any:
    """Where the model's class is found. One that reads images too is among others; its text part is trained."""
    return AutoModelForCausalLM if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING else AutoModelForImageTextToText


def _load(folder: Path, *, plan: Plan, device: torch.device) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Classes from before transformers' attention interface know only their own: they are loaded with that."""
    for implementation in (attention.PACKED, "eager"):
        config = without_dropout(load_config(folder))
        try:
            return auto_class(config).from_pretrained(
                folder,
                config=config,
                dtype=DTYPES[plan.precision],
                attn_implementation=implementation,
                quantization_config=_quantization(plan),
                device_map=None if plan.zero_stage == 3 else {"": device},
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
            )
        except (KeyError, ValueError) as error:
            if implementation != attention.PACKED or attention.PACKED not in str(error):
                raise
    raise AssertionError("the second implementation is tried or has raised")


def check_config(folder: Path) -> None:
    """What the model's class says of config.json, and whether the weights are of its sizes; nothing is allocated.

    Raises:
        JobFailure: `broken_model`.
        InvalidRequest: `config_does_not_fit_weights`, with the field.
    """
    try:
        load_config(folder)
    except Exception as error:  # each class has checks of its own
        raise _broken(folder, f"its config.json is refused ({_first_line(error)})") from error
    config = read_config(folder)
    if is_known(config):
        check_weights(config, _stored_shapes(folder))


def check_vocabulary(known: int, *sets: Rows | None) -> None:
    """Every token id of the rows, and of those held out, has an embedding; the model has `known` ones.

    Raises:
        JobFailure: `vocabulary_mismatch`.
    """
    highest = max(int(rows.tokens.max(initial=0)) for rows in sets if rows is not None)
    if highest >= known:
        raise user_error(
            ErrorCode.VOCABULARY_MISMATCH,
            f"The tokenizer makes token {highest}, but the model has embeddings for {known} tokens only.",
            hint="Tokenizer and weights of this base model do not belong together: register it again from one source.",
            param="model",
        )


def enable_checkpointing(model: PreTrainedModel, mode: str) -> None:
    """What the backward pass makes again: `none` nothing, `selective` what lies between matrix products.

    `mlp` also each MLP's products but its last, `full` each layer. May be called again with another mode at any time,
    but after the fused passes have taken their places.
    """
    for module in model.modules():
        if (forward := getattr(module.forward, "without_recomputing", None)) is not None:
            module.forward = forward
        if (choose := getattr(module.forward, "choose_recomputing", None)) is not None:
            choose(mode == "mlp")
    layers = {id(layer) for layer in layers_of(_without_adapter(model))}
    for name, module in list(model.named_modules()):
        is_layer = id(module) in layers
        is_mlp = name.rsplit(".", 1)[-1] in ("mlp", "feed_forward", "block_sparse_moe")
        if mode == "full" and is_layer:
            _recompute(module)
        elif mode in ("selective", "mlp") and is_layer:
            _keep_products(module)
        elif mode == "mlp" and is_mlp and not hasattr(module.forward, "choose_recomputing"):
            _recompute(module)


class Learner(nn.Module):
    """A causal language model, perhaps with an adapter: packed batch in, hidden states that predict targets out."""

    def __init__(self, model: nn.Module, *, attention: Attention | None = None) -> None:
        """`attention` names the kernel; without it one that runs on any device of the batch's kind is used."""
        super().__init__()
        self.model = model
        self._attention = attention
        self.own_attention: OwnAttention | None = None  # set where rows are not packed
        self._row_lengths = depend_on_own_row(model)
        self.projection: nn.Module | None = None  # runs a judge where the head's weight is not simply at hand

    def forward(self, batch: PackedBatch, loss_function: LossFunction) -> Any:
        """What `loss_function` makes of the hidden states at the target positions, their labels and the head."""
        hidden = self.hidden_states(batch)
        if self.projection is not None:
            return self.projection(loss_function, hidden, batch.labels)
        return loss_function(hidden, batch.labels, self.head)

    @property
    def packs(self) -> bool:
        """Whether the rows of a batch go through the model at once; else one after another, by its own attention."""
        return self.own_attention is None

    @property
    def attention_name(self) -> str:
        """What the model attends by, as its library calls it."""
        return self.own_attention or attention.PACKED

    def pack(self) -> None:
        """Rows go through the model together from now on."""
        self.own_attention = None
        use_attention(self.causal_model, attention.PACKED)

    def attend_alone(self, own: OwnAttention) -> None:
        """Rows go through the model one after another from now on."""
        self.own_attention = own
        use_attention(self.causal_model, own)

    def attend_as(self, other: "Learner") -> None:
        """As another learner of the same family does."""
        if other.own_attention is not None:
            self.attend_alone(other.own_attention)

    def hidden_states(self, batch: PackedBatch) -> torch.Tensor:
        """Those that predict a target: [targets, hidden size]."""
        states = self._together(batch) if self.packs else self._one_by_one(batch)
        hidden = states.index_select(0, batch.target_positions)
        scale = self._logit_scale()
        return hidden if scale == 1.0 else hidden * scale

    @property
    def _decoder(self) -> nn.Module:
        return decoder_of(self.causal_model)

    @property
    def causal_model(self) -> PreTrainedModel:
        """The model under an adapter's wrapping."""
        return _without_adapter(self.model)

    @property
    def head(self) -> Head:
        """The output projection."""
        model = self.causal_model
        layer = model.get_output_embeddings()
        config = model.config.get_text_config()
        caps = [getattr(config, name, None) for name in _LOGIT_CAPS]
        return Head(layer.weight, layer.bias, next((float(cap) for cap in caps if cap), None))

    def trainable(self) -> list[tuple[str, nn.Parameter]]:
        """Names and parameters that learn, in the model's order."""
        return [(name, value) for name, value in self.model.named_parameters() if value.requires_grad]

    def _together(self, batch: PackedBatch) -> torch.Tensor:
        """Hidden states of all tokens: [tokens, hidden size]."""
        segments = batch.segments if self._attention is None else batch.segments.through(self._attention)
        self._note_lengths(segments)
        states: torch.Tensor = self._decoder(
            input_ids=batch.input_ids,
            position_ids=batch.position_ids,
            use_cache=False,
            segments=segments,
            **_bounds(segments),
        ).last_hidden_state
        return states[0]

    def _one_by_one(self, batch: PackedBatch) -> torch.Tensor:
        """The same, with each row in a pass of its own."""
        parts = []
        for ids in batch.input_ids.split(batch.segments.lengths, dim=1):
            self._note_lengths(Segments.of([ids.shape[1]], device=ids.device))
            parts.append(self._decoder(input_ids=ids, use_cache=False).last_hidden_state[0])
        return torch.cat(parts)

    def _note_lengths(self, segments: Segments) -> None:
        if self._row_lengths is not None:
            self._row_lengths.segments = segments

    def _logit_scale(self) -> float:
        config = self.causal_model.config.get_text_config()
        return float(getattr(config, "logit_scale", None) or 1.0) / float(
            getattr(config, "logits_scaling", None) or 1.0
        )


def _bounds(segments: Segments) -> dict[str, torch.Tensor]:
    """Where rows begin, by the names that the kernels of recurrent and convolution layers know (fla, causal_conv1d)."""
    return {"cu_seq_lens_q": segments.cumulative, "seq_idx": segments.numbers[None]}


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a model folder.

    Raises:
        JobFailure: `broken_model`.
    """
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _broken(folder, "it has no readable config.json") from error
    if not isinstance(config, dict):
        raise _broken(folder, f"its config.json holds a {type(config).__name__}, not an object")
    return config


def _stored_shapes(folder: Path) -> dict[str, list[int]]:
    """Of every tensor in the files. One that cannot be read is left to who loads it."""
    found: dict[str, list[int]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with contextlib.suppress(OSError, SafetensorError), safe_open(file, framework="pt") as stored:
            found |= {name: stored.get_slice(name).get_shape() for name in stored.keys()}  # noqa: SIM118
    return found


def _quantization(plan: Plan) -> Any:
    if plan.quantization is None:
        return None
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig
    if plan.sharded_base:
        from tunesmith.worker.train.models.sharded_base import SharedOut as config  # noqa: N813
    return config(
        load_in_4bit=True,
        bnb_4bit_quant_type=plan.quantization,
        bnb_4bit_use_double_quant=plan.double_quantization,
        bnb_4bit_compute_dtype=DTYPES[plan.precision],
    )


def _keep_differentiable(model: PreTrainedModel) -> None:
    """On a CPU with AVX-512 BF16 the first evaluation would repack 4-bit weights for a kernel that has no gradient.

    From then on every layer below the last would learn nothing, with a warning as the only sign.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def _without_adapter(model: nn.Module) -> PreTrainedModel:
    unwrap = getattr(model, "get_base_model", None)
    return cast("PreTrainedModel", unwrap() if unwrap else model)


def _recompute(module: nn.Module) -> None:
    forward = module.forward

    def recomputed(*inputs: Any, **named: Any) -> Any:
        if torch.is_grad_enabled():
            return checkpoint(forward, *inputs, use_reentrant=False, **named)
        return forward(*inputs, **named)

    recomputed.without_recomputing = forward  # type: ignore[attr-defined]
    module.forward = recomputed


def _keep_products(module: nn.Module) -> None:
    forward = module.forward

    def keeping_products(*inputs: Any, **named: Any) -> Any:
        with rebuilding():
            return forward(*inputs, **named)

    keeping_products.without_recomputing = forward  # type: ignore[attr-defined]
    module.forward = keeping_products


def _broken(folder: Path, problem: str) -> Exception:
    return user_error(
        ErrorCode.BROKEN_MODEL,
        f"The base model {folder.name} cannot be used: {problem}.",
        hint="Register the model again; its folder needs config.json, tokenizer.json and all safetensors files.",
        param="model",
    )


def _why(error: BaseException) -> str:
    """transformers lists the shapes in its log, and speaks of an argument that no user has."""
    if "ignore_mismatched_sizes" in str(error):
        return "its weights have other shapes than its config.json says"
    return _first_line(error)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
