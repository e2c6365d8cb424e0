"""Data that lies at an address: what may be fetched, fetching it, and keeping it as a file."""
