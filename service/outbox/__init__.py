"""Telling the outside world after the commit: recorded with the change, delivered until it works.

What is told is a wake-up; how it is sent is the announcer's.
"""
