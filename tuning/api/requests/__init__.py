"""Bodies that are sent to the API: the service reads them, and the command makes them from files of its user."""
