"""What a person should know of a file before it is trained on: rows that repeat, and what looks like a secret.

Counts and lines, never the values.
"""
