"""What every route stands on: reading bodies, who is calling, pages of lists, errors in the API's shape, streams.

Nothing here knows what a job is.
"""
