"""Room on the disk of a worker: asked before a run is fetched, and watched while it writes.

What a run will write is the plan's to say (`tuning.planner.disk`).
"""
