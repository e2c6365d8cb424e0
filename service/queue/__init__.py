"""The line of waiting jobs: who is next, how a worker walks it, and what is ahead of a job.

Each project has a line of its own, by the time of queueing, which half an hour for each step of priority moves. The
lines are merged by turns: a job's turn is its number in its project's line and the jobs that the project runs, less
one for each half hour that it has waited. So projects take turns, and whoever waits long enough goes first.
"""
