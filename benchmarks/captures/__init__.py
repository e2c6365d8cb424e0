"""What each verb of the command prints, captured from a real installation."""
