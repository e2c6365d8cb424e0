"""The options by which verbs describe a job, in groups that several verbs share, and the request they make.

A verb names a group as one parameter; `groups` makes options of its fields.
"""
