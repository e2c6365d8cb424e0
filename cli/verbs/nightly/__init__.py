"""Verbs about what happens every night: `aliases` and `schedules`. A schedule may be described by a file."""
