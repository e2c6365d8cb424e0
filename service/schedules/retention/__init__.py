"""Which results of schedules are kept: the newest ones, and whatever an alias, a job or another model needs.

Bytes are deleted later, by the sweep of `service.blobs`.
"""
