"""Large files in parts: an upload is opened, its parts are stored as they come, and completing it makes a file.

What a file is and how its rows are checked is the business of `service.files`.
"""
