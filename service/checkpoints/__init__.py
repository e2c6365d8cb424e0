"""Checkpoints that are complete in the object store: what there is of a job, and what the next attempt resumes from.

They are registered by `service.attempts`, when a worker reports them, and listed by `service.jobs`.
"""
