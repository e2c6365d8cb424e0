"""Load on the control plane: how much of it a second holds.

The load generator is a process of its own; CPU time of the API and of PostgreSQL is counted beside it.
"""
