"""The pure core: what a job is, what a plan is, and how one is chosen. Start with `job`, `plan`, then `planner.choose`.

Standard library and pydantic only. No I/O, no clock, no randomness, no torch. Everything here is a frozen
value or a function of values, so the service and the worker can run the same code and agree.
"""
