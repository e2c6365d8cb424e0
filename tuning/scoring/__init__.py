"""Whether a generated answer is right, by a rule that a person can repeat: exact, by pattern, as JSON, by label.

Pure: the trainer asks it about answers, the service about what it is asked to score by.
"""
