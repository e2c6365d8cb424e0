"""The service as the worker sees it, over HTTP: its routes, patience when it is away, and files by hash.

Nothing here decides; callers get typed answers or errors of `tuning.errors`.
"""
