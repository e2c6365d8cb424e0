"""Answers about who may do what: keys, projects, invitations of workers, and what was done.

All of them are for administrators.
"""
