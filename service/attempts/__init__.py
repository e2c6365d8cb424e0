"""A worker's side of a job: claiming it under a lease, fenced reports, and what an ending means for the job.

Every write here is checked against the lease; the reasoning about races is in `fencing` and `outcomes`.
"""
