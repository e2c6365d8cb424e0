"""Whether clients of OpenAI's API drive this service unchanged.

Each is installed into an environment of its own and knows nothing of the project.
"""
