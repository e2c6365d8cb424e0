"""Keys that clients choose for their requests, so that sending one again finds the job that the first one made.

A key lives for a day. Copies of a request that carry none are found by the rooms that make jobs.
"""
