"""What is measured, each by a command that a target of the Makefile runs.

Figures go into docs/ with date, machine and versions. Nothing in the product imports from here.
"""
