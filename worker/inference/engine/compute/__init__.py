"""The model over a batch of rows that belong to different sequences and adapters; each row as if it were alone."""
