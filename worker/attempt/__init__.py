"""One attempt of a job, from claim to last word: prepare, launch, follow, upload, finish.

Every module here serves one attempt and ends with it. `runner` tells the story; read it first.
"""
