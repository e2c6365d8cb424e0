"""Repairing what lost messages and dead processes leave behind. Any number of copies may run at once.

What it does and how often is the list in `chores`; when a chore is due and what a failure means is the loop's.
"""
