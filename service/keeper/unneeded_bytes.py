"""Deleting bytes that nothing needs: of deleted files, of old checkpoints, of results that were replaced."""

import structlog

from tunesmith.service.blobs.sweep import sweep, sweep_partial_uploads
from tunesmith.service.checkpoints import store as checkpoints
from tunesmith.service.database.transactions import now
from tunesmith.service.files import store as files
from tunesmith.service.keeper.chore import KeeperContext
from tunesmith.service.uploads import store as uploads

log = structlog.get_logger(__name__)


async def delete_unneeded_bytes(context: KeeperContext) -> int:
    """Let go of what is not needed, then delete what nothing refers to; returns how many blobs that were."""
    async with context.database.transaction() as session:
        await files.let_go(session)
        await checkpoints.let_go(session)
        await uploads.let_go(session, at=await now(session))
    deleted = await sweep(context.database, context.blobs)
    partial = await sweep_partial_uploads(context.blobs)
    if deleted or partial:
        log.info("bytes.deleted", blobs=deleted, partial_uploads=partial)
    return deleted
