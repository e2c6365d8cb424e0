"""One kind of matrix in a model, and which of them an adapter is put on."""

from typing import Literal

from tunesmith.tuning.values.base import Value

Role = Literal["attention", "mlp", "expert", "router", "head"]
Preset = Literal["attention", "attention_mlp", "all-linear", "all-linear+experts"]
Targets = Preset | tuple[str, ...]

ROLES_OF_PRESET: dict[str, frozenset[Role]] = {
    "attention": frozenset({"attention"}),
    "attention_mlp": frozenset({"attention", "mlp"}),
    "all-linear": frozenset({"attention", "mlp"}),
    "all-linear+experts": frozenset({"attention", "mlp", "expert"}),
}


class Linear(Value):
    """`copies` matrices of one name and size.

    `module` is false for a bare parameter, which no name in a list of targets means; `adaptable` for what neither PEFT
    nor the trainer puts an adapter on.
    """

    name: str
    role: Role
    in_features: int
    out_features: int
    copies: int
    bias: bool = False
    module: bool = True
    adaptable: bool = True
    active_copies: int | None = None  # how many take part for one token; experts of a mixture sit out

    @property
    def weights(self) -> int:
        """Entries of all copies, without biases."""
        return self.in_features * self.out_features * self.copies

    @property
    def active_weights(self) -> int:
        """Entries that one token is multiplied with."""
        copies = self.copies if self.active_copies is None else self.active_copies
        return self.in_features * self.out_features * copies

    @property
    def biases(self) -> int:
        """Bias entries of all copies."""
        return self.out_features * self.copies if self.bias else 0

    def adapter_parameters(self, rank: int) -> int:
        """Entries of the two low-rank factors on every copy (LoRA, arXiv 2106.09685): r (in + out)."""
        return rank * (self.in_features + self.out_features) * self.copies

    def active_adapter_parameters(self, rank: int) -> int:
        """Of those, the entries that one token is multiplied with."""
        copies = self.copies if self.active_copies is None else self.active_copies
        return rank * (self.in_features + self.out_features) * copies


def is_target(linear: Linear, targets: Targets) -> bool:
    """Whether an adapter goes on this kind of matrix. A list names modules by the end of their path."""
    if not linear.adaptable:
        return False
    if isinstance(targets, str):
        return linear.role in ROLES_OF_PRESET[targets]
    return linear.module and any(linear.name == target or linear.name.endswith(f".{target}") for target in targets)


def adapts_experts(targets: Targets) -> bool:
    """Whether every expert of a mixture gets an adapter of its own."""
    return isinstance(targets, str) and "expert" in ROLES_OF_PRESET[targets]


def closes(linear: Linear) -> bool:
    """Whether the matrix is the last of its block and so reads an inner tensor."""
    return linear.name.rsplit(".", 1)[-1] in ("o_proj", "dense", "c_proj", "down_proj", "fc2", "dense_4h_to_h")
