"""The client of the `tunesmith` command: verbs that ask a service over HTTP, and what they print.

It imports no server library and no torch, and imports late, so that `--help` is quick. `local.main` is the command.
"""
