"""Base models on the way in: checked, converted, hashed, registered."""
