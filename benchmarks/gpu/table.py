"""(f) One table of everything that was recorded: results.json and results.md."""

import json
from pathlib import Path
from typing import Any

from benchmarks.gpu.setting import lines

COLUMNS = {
    "tests": ("test", "seconds", "outcome"),
    "kernels": ("kind", "case", "operation", "kernel", "side", "error", "against_plain", "milliseconds", "tflops",
                "microseconds", "gigabytes_per_second", "bf16_forward_tflops", "float8_forward_tflops",
                "bf16_backward_tflops", "float8_backward_tflops", "apart_forward_ms", "a_beside_forward_ms",
                "b_beside_forward_ms", "apart_backward_ms", "b_beside_backward_ms", "outcome"),
    "memory": ("size", "method", "tokens", "mode", "predicted_gib", "measured_gib", "ratio", "outcome"),
    "speed": ("side", "method", "size", "rows", "mode", "float8", "without", "tokens_per_second", "mfu", "peak_gib",
              "attention", "outcome"),
    "ranks": ("case", "backend", "processes", "difference", "outcome"),
}  # fmt: skip


def write(folder: Path) -> Path:
    """Merge every piece's lines; returns the markdown file."""
    found: dict[str, list[dict[str, Any]]] = {}
    for line in lines(folder):
        found.setdefault(line.pop("piece"), []).append(line)
    (folder / "results.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    text = ["# A day on a GPU", ""]
    for piece, rows in found.items():
        machines = [row for row in rows if "machine" in row]
        text += [f"## {piece}", ""] + [_machine(row["machine"], tiny=row["tiny"]) for row in machines] + [""]
        text += [*_table(piece, [row for row in rows if "machine" not in row]), ""]
        if piece == "memory" and (worst := _worst(rows)):
            text += [worst, ""]
    target = folder / "results.md"
    target.write_text("\n".join(text), encoding="utf-8")
    return target


def _machine(machine: dict[str, Any], *, tiny: bool) -> str:
    told = ", ".join(f"{name} {value}" for name, value in machine.items())
    return f"{told}.{' Tiny shapes: this proves the script and measures nothing.' if tiny else ''}"


def _table(piece: str, rows: list[dict[str, Any]]) -> list[str]:
    columns = [name for name in COLUMNS.get(piece, ()) if any(name in row for row in rows)]
    table = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    return table + [f"| {' | '.join(_cell(row.get(name)) for name in columns)} |" for row in rows]


def _worst(rows: list[dict[str, Any]]) -> str | None:
    ratios = [row["ratio"] for row in rows if "ratio" in row]
    if not ratios:
        return None
    return f"{len(ratios)} peaks; measured over predicted from {min(ratios):.3f} to {max(ratios):.3f}."


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", "/")
