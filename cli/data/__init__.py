"""Files of rows before they are sent: turned into JSONL from other formats, and looked at.

Nothing leaves the machine here except what is asked of the service about a registered model.
"""
