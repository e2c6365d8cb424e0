"""A copy of an embedded installation in one folder, and an installation made from it."""
