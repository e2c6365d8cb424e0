"""Files of rows on this machine: tables and JSON arrays turned into JSON lines, and what a check found, as text."""
