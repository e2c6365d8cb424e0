"""Verbs about what happens every night: aliases and schedules."""
