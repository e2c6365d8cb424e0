"""What due times cost: where the time of all the jobs went that were made at one.

Nothing here changes a row.
"""
