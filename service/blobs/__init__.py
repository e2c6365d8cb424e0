"""Stored bytes, addressed by their hash: the objects themselves, and the queries that say which there are.

Who may read which bytes is decided by the rooms that own them.
"""
