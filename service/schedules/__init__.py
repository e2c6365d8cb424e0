"""Jobs that are made again and again: when one is due, what it is made of, and what becomes of its result.

`recurrence` knows when, `record_due` writes down each due time once, `decide` makes the job or says why not, `settle`
promotes the result. The keeper calls them; `manage` is what people do to a schedule.
"""
