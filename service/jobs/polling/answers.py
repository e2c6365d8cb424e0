"""Jobs as they were sent last: who asks again is sent the same bytes for as long as they say how the job is."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from tunesmith.service.queue.surroundings import Standing

MOST_BYTES: Final = 32 * 2**20


@dataclass(frozen=True, slots=True)
class JobAnswer:
    """The answer to whoever asks for a job at this version and with this standing in line."""

    version: int
    standing: Standing | None
    body: bytes


class JobAnswers:
    """One of a process. The answers that were asked for last are kept, one of a job, up to `most_bytes` of all."""

    def __init__(self, *, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._answers: OrderedDict[str, JobAnswer] = OrderedDict()

    def find(self, job_id: str) -> JobAnswer | None:
        """What was sent last of this job; how the job is now, its version tells."""
        answer = self._answers.get(job_id)
        if answer is not None:
            self._answers.move_to_end(job_id)
        return answer

    def find_at(self, job_id: str, *, version: int, standing: Standing | None) -> JobAnswer | None:
        """The same, if it was sent of this version with this standing."""
        answer = self.find(job_id)
        return answer if answer is not None and (answer.version, answer.standing) == (version, standing) else None

    def keep(self, job_id: str, answer: JobAnswer) -> JobAnswer:
        """Instead of what was kept of this job, unless that was of a later version. Returns the same answer."""
        known = self._answers.get(job_id)
        if known is not None:
            if known.version > answer.version:
                return answer
            self._drop(job_id)
        self._answers[job_id] = answer
        self._bytes += len(answer.body)
        while self._bytes > self._most_bytes:
            self._drop(next(iter(self._answers)))
        return answer

    def _drop(self, job_id: str) -> None:
        self._bytes -= len(self._answers.pop(job_id).body)
