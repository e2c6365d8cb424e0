"""PostgreSQL and Valkey as child processes, for a machine that has neither running.

The servers come from Python wheels. Which other processes run beside them is `local.up`'s.
"""
