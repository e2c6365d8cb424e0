"""A job's model in the form that another engine takes, loaded again and compared before it is called done."""

import json
import shlex
from pathlib import Path

from tunesmith.cli.client import Client
from tunesmith.cli.progress import waiting
from tunesmith.cli.results.forms import ExportForm, GgufType
from tunesmith.cli.results.merge import pull_merged
from tunesmith.cli.results.pull import name_base, pull_artifacts, pull_base
from tunesmith.cli.trainer import run_tool
from tunesmith.tuning.api.jobs import JobObject
from tunesmith.tuning.codes import ArtifactKind, ErrorCode
from tunesmith.tuning.errors import InvalidRequest
from tunesmith.tuning.values.json_objects import Json

_EXPORT = "tunesmith.worker.train.export"
_ADAPTER_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM's --max-lora-rank may be
_NOT_FOR_VLLM = ("use_dora", "modules_to_save")


def export(
    client: Client, job: JobObject, *, form: ExportForm, folder: Path, base: Path | None, kind: GgufType
) -> list[str]:
    """Write the model below `folder` and return lines that say what is there, how near it is, and how to load it.

    Raises:
        NotFound: the job has no result.
        InvalidRequest: the folder holds one already.
        ToolFailed: the libraries are missing, the form cannot hold the model, or what was written differs.
    """
    if form is ExportForm.GGUF:
        return _gguf(client, job, folder=folder, base=base, kind=kind)
    has_model = any(artifact.kind == ArtifactKind.MODEL for artifact in client.artifacts(job.id))
    if form is ExportForm.VLLM and not has_model:
        return _adapter(client, job, folder=folder, base=base)
    pull_merged(client, job, folder=folder, base=base)
    model = str((folder / ArtifactKind.MODEL).resolve())
    load = f"vllm serve {shlex.quote(model)}" if form is ExportForm.VLLM else f"from_pretrained({model!r})"
    return [model, load]


def check_for_vllm(config: Json) -> int:
    """The `--max-lora-rank` that vLLM needs for an adapter of this config.

    Raises:
        InvalidRequest: vLLM does not take such an adapter.
    """
    for name in _NOT_FOR_VLLM:
        if config.get(name):
            raise InvalidRequest(
                f"The adapter has {name}, which vLLM does not load.",
                code=ErrorCode.ENGINE_REFUSED,
                param="--for",
                hint="take --for transformers: vLLM serves the merged folder",
            )
    largest = max(int(config["r"]), *(int(rank) for rank in (config.get("rank_pattern") or {}).values()), 1)
    for rank in _ADAPTER_RANKS:
        if rank >= largest:
            return rank
    raise InvalidRequest(
        f"The adapter has rank {largest}, vLLM takes {_ADAPTER_RANKS[-1]} at most.",
        code=ErrorCode.ENGINE_REFUSED,
        param="--for",
        hint="take --for transformers: vLLM serves the merged folder",
    )


def _adapter(client: Client, job: JobObject, *, folder: Path, base: Path | None) -> list[str]:
    pull_artifacts(client, job.id, folder=folder, kind=ArtifactKind.ADAPTER)
    adapter = (folder / ArtifactKind.ADAPTER).resolve()
    rank = check_for_vllm(json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8")))
    under = (base or pull_base(client, job, folder=folder)).resolve()
    name_base(adapter, under)
    with waiting("load the adapter by its folder, and compare"):
        told = json.loads(run_tool(f"{_EXPORT}.adapter_folder", str(under), str(adapter)))
    name = shlex.quote(f"{job.fine_tuned_model}={adapter}")
    load = f"vllm serve {shlex.quote(str(under))} --enable-lora --max-lora-rank {rank} --lora-modules {name}"
    return [str(under), str(adapter), _nearness(told), load]


def _gguf(client: Client, job: JobObject, *, folder: Path, base: Path | None, kind: GgufType) -> list[str]:
    file = folder / f"model-{kind}.gguf"
    if file.exists():
        raise InvalidRequest(f"{file} is there already.", param="--to", hint="name a new folder")
    if not (folder / ArtifactKind.MODEL).is_dir():  # one that is there was merged for another type of file
        pull_merged(client, job, folder=folder, base=base)
    model = (folder / ArtifactKind.MODEL).resolve()
    with waiting("write the GGUF file, and compare"):
        told = json.loads(run_tool(f"{_EXPORT}.write_gguf", str(model), str(file.absolute()), "--type", kind))
    return [str(file.resolve()), _nearness(told), f"llama-cli -m {shlex.quote(str(file.resolve()))}"]


def _nearness(told: Json) -> str:
    return f"compared over {told['tokens_compared']} tokens: at most {told['largest_difference_nats']:.3g} nats apart"
