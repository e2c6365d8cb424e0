"""Whether clients of OpenAI's API, each in an environment of its own, drive this service unchanged."""
