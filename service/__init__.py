"""The control plane: the API, the database that keeps jobs, and the keeper that repairs. Start with `app`, then `jobs`.

It never imports torch, the worker or the command. Routes translate, use cases decide, stores query.
"""
