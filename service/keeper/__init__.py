"""Repairing what lost messages and dead processes leave behind. Any number of copies may run at once.

Each chore is a function of a session; when it is due is the loop's.
"""
