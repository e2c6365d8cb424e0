"""The loss masks of the trainer beside those of transformers, under the chat templates of real models.

Writes docs/chat-templates.md, and fails when a mask differs for no known reason.
"""
