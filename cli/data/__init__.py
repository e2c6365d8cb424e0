"""Files of rows on this machine: tables and JSON arrays turned into JSON lines, and what a check found, as text.

Speaks to no service; the check itself is in `cli.doctor`, its rules in `tuning.datasets`.
"""
