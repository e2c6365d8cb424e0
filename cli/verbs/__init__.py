"""The verbs of the `tunesmith` command that ask a service, one file per group.

What a verb imports waits inside it, so that `--help` is quick. What it prints is made in `cli.rendering`.
"""
