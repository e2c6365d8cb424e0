"""`python -m tunesmith.local.up`: the same as `tunesmith up`, for callers that start it as a process."""

import typer

from tunesmith.local.up.command import up

if __name__ == "__main__":
    typer.run(up)
