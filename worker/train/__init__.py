"""The trainer: one run in a process of its own, from plan.json to result.json. Start with `session`, then `methods`.

Beside the engine (`worker.inference.engine`) the only code that imports torch. It knows the run directory, and neither
Celery, HTTP nor a database.
"""
