"""Answers about what happens every night.

Aliases are names that move, schedules make the jobs whose results they come to name.
"""
