"""`python -m tunesmith.cli.models.hub_upload FOLDER ID`: create a private repository and send a folder to it.

The token is the hub library's own business (`HF_TOKEN`, or its login): it stays on this machine.
"""

import json
import sys

from tunesmith.cli.models.hub_download import failure


def main() -> int:
    """Print `{"url"}`, or `{"message", "hint", "http_status"}` with exit code 1."""
    folder, identifier = sys.argv[1:3]
    try:
        answer = _send(folder, identifier)
    except ModuleNotFoundError as error:
        answer = failure(f"{error.name} is not installed.", status=400, hint="pip install 'tunesmith[data]'")
    except Exception as error:
        answer = _explain(identifier, error)
    print(json.dumps(answer))
    return 0 if "url" in answer else 1


def _send(folder: str, identifier: str) -> dict[str, object]:
    from huggingface_hub import HfApi

    hub = HfApi()
    hub.create_repo(identifier, private=True, exist_ok=True)
    commit = hub.upload_folder(repo_id=identifier, folder_path=folder, commit_message="Add the tuned model")
    return {"url": str(commit.commit_url)}


def _explain(identifier: str, error: Exception) -> dict[str, object]:
    status = getattr(getattr(error, "response", None), "status_code", None)
    first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if status in (401, 403):
        message = f"The hub does not let you write to {identifier}."
        return failure(message, status=status, hint="set HF_TOKEN to a token that may write")
    return failure(
        f"The hub took no {identifier}: {first_line}", status=status or 503, hint="try again when it answers"
    )


if __name__ == "__main__":
    sys.exit(main())
