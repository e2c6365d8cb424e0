"""What a run will cost in memory and time, as formulas with their sources, and how measurements correct them.

Nothing here chooses: the same question always has one answer, and `tuning.search` compares answers.
"""
