"""The `tunesmith` command: one verb per thing a person does. Verbs import what they need when they run."""

import sys

import typer

from tunesmith.cli.verbs import (
    artifacts,
    chat,
    environment,
    files,
    jobs,
    models,
    plan,
    reproduce,
    submit,
    watch,
    workers,
)
from tunesmith.local.verbs import demo, server

app = typer.Typer(
    name="tunesmith",
    help="Fine-tune language models on the hardware that is really there.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for group in (server, environment, demo, submit, plan, jobs, reproduce, watch, files, chat, workers):
    group.register(app)
app.add_typer(artifacts.app, name="artifacts", rich_help_panel="Results and models")
app.add_typer(models.app, name="models", rich_help_panel="Results and models")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; every error leaves as one message and one exit code."""
    try:
        app(args=arguments)
    except BrokenPipeError:
        _leave_the_pipe()
        return 141  # what a shell reports for SIGPIPE
    except Exception as error:
        from tunesmith.cli.failures import report

        return int(report(error))
    return 0


def _leave_the_pipe() -> None:
    """Point stdout away from the closed pipe, so that the flush at exit stays silent."""
    import os

    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
