"""The options by which verbs describe a job, in groups that several verbs share, and the request they make."""
