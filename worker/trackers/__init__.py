"""The metric stream of a run, written for programs that draw curves.

Whatever fails here fails no job.
"""
