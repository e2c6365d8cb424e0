"""The dry run of a job over HTTP, and how right earlier predictions were.

What is asked of the planner, and of which machines, is in `service.planning`.
"""
