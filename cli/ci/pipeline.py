"""What the environment of a pipeline says: which system it is, which commit, and so which job is the same again."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tunesmith.cli.ci.job_file import Loaded
from tunesmith.cli.models.hashing import sha256_of

LABEL = "ci_key"  # in the metadata of the job, where a later run of the pipeline finds it
_COMMITS = ("GITHUB_SHA", "CI_COMMIT_SHA", "BUILDKITE_COMMIT", "CIRCLE_SHA1", "BITBUCKET_COMMIT", "GIT_COMMIT")


@dataclass(frozen=True)
class Pipeline:
    """The pipeline that this runs in."""

    commit: str | None
    is_github: bool
    summary: Path | None
    outputs: Path | None

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> "Pipeline":
        """As the usual systems say it."""
        return cls(
            commit=next((environment[name] for name in _COMMITS if environment.get(name)), None),
            is_github=environment.get("GITHUB_ACTIONS") == "true",
            summary=_path(environment, "GITHUB_STEP_SUMMARY"),
            outputs=_path(environment, "GITHUB_OUTPUT"),
        )


def key_of(loaded: Loaded, pipeline: Pipeline) -> str:
    """The same for the same commit, job file and data: a step that runs again attaches to its job."""
    digest = hashlib.sha256(loaded.text)
    for field, source in sorted(loaded.files.items()):
        digest.update(f"\0{field}\0{sha256_of(source) if isinstance(source, Path) else source}".encode())
    return f"{(pipeline.commit or 'no-commit')[:12]}-{digest.hexdigest()[:24]}"


def _path(environment: Mapping[str, str], name: str) -> Path | None:
    return Path(environment[name]) if environment.get(name) else None
