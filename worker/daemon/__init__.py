"""The worker as a process on its host: registering, being woken by Celery, and taking jobs while a slot is free.

One daemon per host, one pool worker per slot. What happens to a job it has taken is `worker.attempt`'s.
"""
