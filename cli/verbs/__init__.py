"""The verbs of the `tunesmith` command, one file per group; what they import waits inside them."""
