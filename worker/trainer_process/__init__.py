"""Trainers as processes: started so that they cannot outlive their worker, watched, stopped and cleaned up after.

Nothing here knows what a trainer computes, or that there is a service.
"""
