"""What becomes of the results of a schedule: promoted, refused, or measured first by the schedule's own gate.

How models are measured and compared is the business of `service.evaluations` and `tuning.gate`.
"""
