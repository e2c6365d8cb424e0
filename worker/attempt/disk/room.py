"""Whether a run has room on this host's disk, asked before anything is fetched."""

import shutil
from pathlib import Path

from tunesmith.tuning.errors import JobFailure
from tunesmith.tuning.messages import BaseModelRef, Claim
from tunesmith.tuning.planner.disk import state_bytes, with_margin
from tunesmith.tuning.values.units import gib
from tunesmith.worker.attempt.exit_classifier import disk_full
from tunesmith.worker.transport.model_cache import ModelCache

_TOKENISED = 1.25  # bytes of tokens and marks for a byte of text: five for a token, which has about four characters


def require_space(claim: Claim, *, cache: ModelCache, folder: Path) -> None:
    """Compare what the run will write with what is free.

    Raises:
        JobFailure: `disk_full`, with both numbers.
    """
    needed = needed_bytes(claim, missing_model_bytes=_missing(claim, cache))
    free = shutil.disk_usage(folder).free
    if needed > free:
        message = f"The run needs {gib(needed)} on the worker's disk and {gib(free)} are free."
        raise JobFailure(disk_full(message))


def needed_bytes(claim: Claim, *, missing_model_bytes: int) -> int:
    """Model and data to fetch, the tokenised rows, checkpoints, and the result, with a tenth on top."""
    data = sum(file.bytes for file in (claim.training_file, claim.validation_file) if file is not None)
    if claim.spec.evaluation is not None:  # nothing is trained
        return with_margin(missing_model_bytes + data * (1 + _TOKENISED))
    state = state_bytes(claim.plan, model_parameters=_model_parameters(claim))
    return with_margin(missing_model_bytes + data * (1 + _TOKENISED) + state)


def moved_bytes(claim: Claim) -> int:
    """What a run on a host that has none of it reads and writes in all."""
    return needed_bytes(claim, missing_model_bytes=weights_bytes(claim))


def weights_bytes(claim: Claim) -> int:
    """Of all files of the models that the run reads."""
    return sum(file.bytes for model in _models(claim) for file in (*model.files, *model.base_files))


def _models(claim: Claim) -> list[BaseModelRef]:
    """All that the run reads."""
    return [claim.base_model] if claim.against is None else [claim.base_model, claim.against]


def _model_parameters(claim: Claim) -> int:
    files = claim.base_model.base_files or claim.base_model.files
    return sum(file.bytes for file in files) // 2  # weights are stored in two bytes each, rarely in four


def _missing(claim: Claim, cache: ModelCache) -> int:
    sets = {files for model in _models(claim) for files in (model.files, model.base_files) if files}
    return sum(cache.missing_bytes(files) for files in sets)
