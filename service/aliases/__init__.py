"""Names that stand for models: `ft:support@prod`. Setting one, going back, its history, and what one stands for.

Every other room that takes a model's name asks `resolve` first.
"""
