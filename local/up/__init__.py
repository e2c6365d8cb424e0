"""`tunesmith up`: the whole service on one machine, started, watched and stopped by one process.

Each part is the program that production runs, with an environment that is chosen here.
"""
