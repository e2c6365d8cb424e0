"""What every value here is made of: its base class, limits of fields, hashes, units and how they are written.

Nothing here knows what a job, a plan or a machine is.
"""
