"""`python -m tunesmith.cli.models.hub_download ID REVISION`: fetch one commit of a repository, print where it lies."""

import json
import sys

# Weights as safetensors, configuration and tokenizer: no code and no pickles leave the hub.
ALLOWED = ["*.json", "*.safetensors", "tokenizer.model", "spiece.model", "merges.txt", "vocab.txt", "*.jinja"]


def main() -> int:
    """Print `{"path", "commit"}`, or `{"message", "hint", "http_status"}` with exit code 1."""
    identifier, revision = sys.argv[1:3]
    try:
        answer = _fetch(identifier, revision)
    except ModuleNotFoundError as error:
        answer = failure(f"{error.name} is not installed.", status=400, hint="pip install 'tunesmith[data]'")
    except Exception as error:
        answer = _explain(identifier, revision, error)
    print(json.dumps(answer))
    return 0 if "path" in answer else 1


def _fetch(identifier: str, revision: str) -> dict[str, object]:
    from huggingface_hub import HfApi, snapshot_download

    commit = HfApi().model_info(identifier, revision=revision, timeout=20).sha
    path = snapshot_download(identifier, revision=commit, allow_patterns=ALLOWED)
    return {"path": path, "commit": commit}


def _explain(identifier: str, revision: str, error: Exception) -> dict[str, object]:
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return failure(f"{identifier} asks for consent first.", status=403, hint="accept its terms and set HF_TOKEN")
    if isinstance(error, errors.RevisionNotFoundError):
        return failure(f"{identifier} has no revision {revision}.", status=404, hint="a branch, tag or commit")
    if isinstance(error, errors.RepositoryNotFoundError):
        return failure(
            f"The hub has no model {identifier}, or it is private.",
            status=404,
            hint="check the name; for a private one set HF_TOKEN",
        )
    first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return failure(
        f"The hub cannot be reached: {first_line}",
        status=503,
        hint="on a machine without the network, copy the folder here and use --path, or a file with --gguf",
    )


def failure(message: str, *, status: int, hint: str) -> dict[str, object]:
    """What both programs about the hub print when they have nothing better."""
    return {"message": message, "http_status": status, "hint": hint}


if __name__ == "__main__":
    sys.exit(main())
