"""Twenty small retrains that are due at one moment on one host, and what they cost beside their training.

A whole installation is started for it, with PostgreSQL, Valkey, API, keeper and one worker.
"""
