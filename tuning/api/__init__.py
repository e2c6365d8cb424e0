"""The answers of the public API: the service builds them, the command reads them, the documents describe them.

One module for each resource. Shapes and names are those of the OpenAI API; everything of ours is under `tunesmith` or
in objects of our own. What is sent to make something is in `requests`.
"""
