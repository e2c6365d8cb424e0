"""Evaluations: jobs that measure models on rows and train nothing, what came of them, and the gate's verdict.

Measuring is a worker's; here it is asked for, and its rows are checked, stored, judged and shown.
"""
