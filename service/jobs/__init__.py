"""Jobs as users see them: created, listed, cancelled, paused, resumed, and why they wait.

How a job is tried by a worker is `service.attempts`'.
"""
