"""One module a training method, chosen by the plan: load, train, save.

What methods share lies in the other rooms, as functions.
"""
