"""Which files of a checkpoint are the model, and which are only what training goes on from."""

from tunesmith.service.database.tables import Checkpoint
from tunesmith.tuning.messages import FileRef

WHOLE_WEIGHTS = ("masters.safetensors",)
# An adapter with its settings, and what PiSSA's is measured from.
_ADAPTER = ("adapter_model.safetensors", "adapter_config.json", "initial.safetensors")


def weights_of(checkpoint: Checkpoint) -> tuple[FileRef, ...]:
    """Its adapter, or all weights of a model; nothing where several processes share them, or where they are let go."""
    files = {file["name"]: FileRef.model_validate(file) for file in checkpoint.files}
    for wanted in (WHOLE_WEIGHTS, _ADAPTER):
        if wanted[0] in files:
            return tuple(files[name] for name in wanted if name in files)
    return ()
