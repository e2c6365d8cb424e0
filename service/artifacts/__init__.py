"""What finished jobs left: the list, and the bytes.

Artifacts are registered by `service.attempts`, when a worker reports them.
"""
