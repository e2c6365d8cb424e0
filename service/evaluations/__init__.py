"""Evaluations: jobs that measure models on rows and train nothing, what came of them, and the gate's verdict."""
