"""The lines of a model card that load the result in PEFT, transformers and vLLM."""

from tunesmith.tuning.models.hub import is_placeholder
from tunesmith.worker.run_directory import TrainRequest

USE_OF_MODEL = (
    "`FOLDER` is where this file lies.",
    "",
    "```python",
    'model = transformers.AutoModelForCausalLM.from_pretrained("FOLDER")',
    'tokenizer = transformers.AutoTokenizer.from_pretrained("FOLDER")',
    "```",
    "",
    "```bash",
    "vllm serve FOLDER",
    "```",
)


def use_of_adapter(request: TrainRequest) -> list[str]:
    """With the commit of the base where that is known, else with a word on where its folder belongs."""
    base, revision = request.base_name, request.base_revision
    pinned, option = (f', revision="{revision}"', f" --revision {revision}") if revision else ("", "")
    lines = [
        "`FOLDER` is where this file lies.",
        "",
        "```python",
        'model = peft.AutoPeftModelForCausalLM.from_pretrained("FOLDER")  # PEFT',
        f'model = transformers.AutoModelForCausalLM.from_pretrained("{base}"{pinned})  # transformers',
        'model.load_adapter("FOLDER")',
        "```",
        "",
        "```bash",
        f"vllm serve {base}{option} --enable-lora --lora-modules tuned=FOLDER",
        "```",
    ]
    if is_placeholder(base):
        lines += [
            "",
            f"`{base}` is to be the folder of the base: `tunesmith artifacts pull --with-base` fills it in.",
        ]
    return lines
