"""How long a user waits: from submit to the first step, and a job's wall time over its training time.

A whole installation is started for it, with PostgreSQL, Valkey, API, keeper and worker.
"""
