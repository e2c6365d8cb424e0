"""What a project may have: running jobs, queued jobs, stored bytes, GPU hours a month. Settings say it, and admins.

Whoever adds one checks the limit in the same transaction, under a lock of the project, as the last thing before the
commit: so two at once cannot both be the last that fits, and the lock is held for a moment only.
"""
