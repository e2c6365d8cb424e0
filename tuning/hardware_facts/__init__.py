"""What is known of machines beyond what a probe reports: cards by name, assumed constants, which GPUs go together.

Facts and look-ups with their sources. What a run costs on them is in `tuning.estimates`.
"""
