"""Bodies that are sent to the API. The service reads them strictly; the command makes them from files of its user.

What one field allows and another forbids is checked by the body itself, so that both sides say the same.
"""
