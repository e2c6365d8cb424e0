"""Gives the config of a model whose family the planner has no formulas for its measured shape."""

import json
import tempfile
from pathlib import Path

from tunesmith.cli import output
from tunesmith.cli.trainer import run_tool
from tunesmith.tuning.models.shape import MEASURED_SHAPE, is_known
from tunesmith.tuning.values.json_objects import Json


def with_shape(config: Json) -> Json:
    """The config itself, or with a shape measured by the trainer's libraries, so that planning works everywhere.

    Raises:
        ToolFailed: they are not installed, or do not know the family either.
    """
    if not isinstance(config.get("model_type"), str) or is_known(config):
        return config
    output.note(f"note: the planner has no formulas for the family {config['model_type']}; measuring its shape")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.json"
        file.write_text(json.dumps(config), encoding="utf-8")
        shape = json.loads(run_tool("tunesmith.worker.train.profiling.shape", str(file)))
    if shape["measured"] is None:
        output.note("note: its layers cannot be run without weights; their memory is estimated from their matrices")
    return config | {MEASURED_SHAPE: shape}
