"""When a lease has run out because its worker is gone, and not because nobody could renew it.

An API that serves says so (`beat`); leases are measured by that (`lease_time`), not by a clock on a wall.
"""
