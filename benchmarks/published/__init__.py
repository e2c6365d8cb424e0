"""Published fine-tuning runs beside what the planner predicts for them."""
