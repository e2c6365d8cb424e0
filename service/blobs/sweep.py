"""Deleting bytes that nothing refers to, so that no upload and no new reference ever loses its bytes.

Bytes go in two steps, each in a transaction of its own that holds the row's lock. First the row says that they are not
stored any more, if nothing refers to them: whoever would refer to them from now on is told to send them again. Then
the object and the row are deleted, unless an upload has been announced in between. A crash between the two leaves a row
that the next sweep deletes with whatever is left of its object.
"""

from datetime import timedelta

from tunesmith.service.blobs import store
from tunesmith.service.blobs.objects import BlobStore
from tunesmith.service.database.transactions import Database

_BATCH = 500
_MOST_BATCHES = 20  # of one sweep: the rest waits for the next
_PARTIAL_UPLOAD_AGE = timedelta(days=1)  # since its last byte


async def sweep(database: Database, blobs: BlobStore) -> int:
    """Delete what nothing has referred to for half a day to a day, and return how many blobs that were."""
    for step in (store.keep_referenced, store.give_up_unreferenced):
        for _ in range(_MOST_BATCHES):
            async with database.transaction() as session:
                if await step(session, limit=_BATCH) < _BATCH:
                    break
    async with database.transaction() as session:
        given_up = await store.find_given_up(session, limit=_BATCH)
    return sum([await _erase(database, blobs, sha256) for sha256 in given_up])


async def sweep_partial_uploads(blobs: BlobStore) -> int:
    """Delete what uploads that were killed have left, and return how many files that were."""
    return await blobs.delete_partial_uploads(older_than=_PARTIAL_UPLOAD_AGE)


async def _erase(database: Database, blobs: BlobStore, sha256: str) -> bool:
    """The lock is held while the object is deleted: an upload of the same bytes begins before it or after it."""
    async with database.transaction() as session:
        if not await store.lock_given_up(session, sha256):
            return False
        await blobs.delete(sha256)
        await store.forget(session, sha256)
    return True
