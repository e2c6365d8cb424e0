"""Keys that clients choose for their requests, so that sending one again finds the job that the first one made."""
