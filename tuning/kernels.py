"""The code that a run spends its time and memory in, as one short label by which measurements are kept apart."""


def kernels_label(
    *,
    attention: str,
    checkpointing: str,
    optimizer: str,
    fused_passes: bool,
    zero_stage: int = 0,
    offload: bool = False,
) -> str:
    """`sdpa/recompute-none/adamw/fused`; sharding and offloading are named only where they happen."""
    parts = [attention, f"recompute-{checkpointing}", optimizer, "fused" if fused_passes else "unfused"]
    if zero_stage:
        parts.append(f"zero-{zero_stage}")
    if offload:
        parts.append("offload")
    return "/".join(parts)
