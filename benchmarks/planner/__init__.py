"""The planner held against its own promises and against the questions of a review; neither needs torch or a GPU."""
