"""Files that users upload: taken in and checked row by row, listed, downloaded, deleted.

What a row may look like is `tuning.datasets`'.
"""
