"""Counts for Prometheus, the same from every copy of the API.

No label names a job, a project or a model.
"""
