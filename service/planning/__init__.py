"""The planner asked on behalf of the service: which machines fit a job, when it could start, what runs have taught.

Decisions and queries for them; the routes that show them are in `service.plans`.
"""
