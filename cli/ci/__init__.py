"""`tunesmith ci`: one job from a file in a pipeline: submit or attach, wait, judge, and report in what pipelines read.

`run` has the order of things; the file is `job_file`'s, reports are `junit`, `summary` and `github`.
"""
