"""`python -m cli.up`: the same as `tunesmith up`, for callers that start it as a process."""

import typer

from cli.up.command import up

if __name__ == "__main__":
    typer.run(up)
