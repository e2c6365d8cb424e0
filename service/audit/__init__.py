"""Who did what when, as rows that nobody changes."""
