"""What administrators do from the command line: keys, projects, the audit log, and inviting workers."""
