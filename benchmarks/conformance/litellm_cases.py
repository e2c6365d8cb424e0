"""What LiteLLM is asked to do: `python litellm_cases.py BASE_URL KEY MODEL SUCCEEDED_JOB`, in its own environment."""

import json
import sys
from typing import Any

import litellm

_ROWS = json.dumps({"prompt": "1 + 1 = ", "completion": "2"}).encode() + b"\n"


def main() -> None:
    base_url, key, model, succeeded = sys.argv[1:]
    where: dict[str, Any] = {"custom_llm_provider": "openai", "api_base": base_url, "api_key": key}
    file = litellm.create_file(file=("rows.jsonl", _ROWS * 20), purpose="fine-tune", **where)
    job = litellm.create_fine_tuning_job(model=model, training_file=file.id, **where)
    done = {
        "files: upload": file.status == "processed",
        "files: content": litellm.file_content(file_id=file.id, **where).content == _ROWS * 20,
        "jobs: supervised": job.object == "fine_tuning.job",
        "jobs: cancel": litellm.cancel_fine_tuning_job(fine_tuning_job_id=job.id, **where).id == job.id,
        "jobs: list, three pages": job.id in [one.id for one in litellm.list_fine_tuning_jobs(limit=5, **where)],
        "jobs: retrieve a result": litellm.retrieve_fine_tuning_job(fine_tuning_job_id=succeeded, **where).status
        == "succeeded",
    }
    print(json.dumps({case: "ok" if is_so else "another answer" for case, is_so in done.items()}))


if __name__ == "__main__":
    main()
