"""Measure the shapes of known models whose families have no formulas, and write them where the planner reads them.

    make hub-shapes      or   python -m benchmarks.catalogue [--only NAME]

Each takes about ten seconds: the model is built on the meta device. The numbers belong to the installed transformers.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tunesmith.tuning.models.catalogue import CONFIGS, without_formulas
from tunesmith.tuning.models.shape import ModelShape

TARGET = Path(__file__).parents[1] / "tuning" / "models" / "hub_shapes.json"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="measure one model and keep the others as they are")
    only = parser.parse_args().only
    kept: dict[str, Any] = json.loads(TARGET.read_text()) if only else {}
    names = [only] if only else list(without_formulas())
    write(kept | {name: measured(name) for name in names})
    return 0


def measured(name: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.json"
        config.write_text(json.dumps(CONFIGS[name]))
        tool = [sys.executable, "-m", "tunesmith.worker.train.profiling.shape", str(config)]
        output = subprocess.run(tool, check=True, capture_output=True, text=True).stdout
    shape = ModelShape.model_validate_json(output.splitlines()[-1])
    print(f"{name}: {shape.parameters:,} parameters", flush=True)
    return shape.model_dump(mode="json", exclude_defaults=True)


def write(shapes: dict[str, Any]) -> None:
    """One model a line, so that a change shows which."""
    lines = [f"  {json.dumps(name)}: {json.dumps(shapes[name])}" for name in sorted(shapes)]
    TARGET.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    sys.exit(main())
