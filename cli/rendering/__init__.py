"""What verbs show: jobs, plans, predictions and progress, as text for a person or lines for a log.

Functions of what the service answered; nothing here asks it.
"""
