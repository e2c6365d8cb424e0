"""Whether one model is better than another on the same rows, by more than chance explains: pure arithmetic."""
