"""The warm process: training libraries imported once, and a fork of it for each job.

What makes a fork as good as a new process is in `guard`; what makes it a process of its own is in `forked`.
"""
