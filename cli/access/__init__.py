"""What administrators do from the command line: keys, projects, the audit log, and inviting workers.

The verbs are here with their calls of the service, because nobody else needs either.
"""
