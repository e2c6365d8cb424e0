"""Who did what when, as rows that nobody changes.

Whoever carries an action out records it in the same transaction.
"""
