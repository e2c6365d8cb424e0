"""The options by which verbs describe a job, in groups that several verbs share, and the request they make.

Bounds of numbers are the service's: what it refuses, it refuses for every client alike.
"""
