"""The code that a run spends its time and memory in, as one short label by which measurements are kept apart."""


def kernels_label(
    *,
    attention: str,
    checkpointing: str,
    optimizer: str,
    fused_passes: bool,
    zero_stage: int = 0,
    offload: bool = False,
    float8_base: bool = False,
    packing: bool = True,
    sharded_base: bool = False,
) -> str:
    """`sdpa/recompute-none/adamw/fused`; what few runs do is named only where it happens."""
    parts = [attention, f"recompute-{checkpointing}", optimizer, "fused" if fused_passes else "unfused"]
    if zero_stage:
        parts.append(f"zero-{zero_stage}")
    if sharded_base:
        parts.append("sharded-base")
    if offload:
        parts.append("offload")
    if float8_base:
        parts.append("float8")
    if not packing:
        parts.append("unpacked")
    return "/".join(parts)
