"""Parameters that several routes take, with what the documents say of them."""

from typing import Annotated, Literal

from fastapi import Header, Path, Query

JobId = Annotated[str, Path(description="The job's id, `ftjob-...`.")]
FileId = Annotated[str, Path(description="The file's id, `file-...`.")]
ModelName = Annotated[str, Path(description="The model's name.")]
Sha256 = Annotated[str, Path(description="SHA-256 of the bytes in hexadecimal.")]
After = Annotated[str | None, Query(description="Start behind the item of this id: the last one of the page before.")]
Order = Annotated[Literal["asc", "desc"], Query(description="Oldest or newest first.")]
Range = Annotated[
    str | None,
    Header(
        alias="range", description="One range of bytes, such as `bytes=0-1023`, to read or to go on reading a part."
    ),
]
IdempotencyKey = Annotated[
    str | None,
    Header(description="Any word: the same request sent again with it within a day finds the job that it made first."),
]
AT_MOST = "The most items to answer with."
