"""How another machine becomes a worker: an invitation, the service's own package, and a key of the machine's own.

The machine's side is `worker.joining`.
"""
