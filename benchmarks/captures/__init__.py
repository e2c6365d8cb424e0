"""What each verb of the command prints, captured from a real installation.

One tiny job is trained for it; ids, times and durations are those of that run.
"""
