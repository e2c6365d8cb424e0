"""The `tunesmith` command: one verb per thing a person does. Verbs import what they need when they run."""

import sys
from typing import Annotated

import typer

from tunesmith.cli.access import audit, invitations, keys, projects
from tunesmith.cli.ci import verb as ci
from tunesmith.cli.doctor import verb as data
from tunesmith.cli.verbs import (
    artifacts,
    chat,
    environment,
    evaluate,
    files,
    jobs,
    models,
    plan,
    reproduce,
    submit,
    watch,
    webhooks,
)
from tunesmith.cli.verbs.nightly import aliases, schedules
from tunesmith.local.verbs import backups, demo, server

app = typer.Typer(
    name="tunesmith",
    help="Fine-tune language models on the hardware that is really there.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        environment.version()
        raise typer.Exit


@app.callback()
def options(
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Fine-tune language models on the hardware that is really there."""


_JOBS = (submit, plan, jobs, reproduce, evaluate, watch, ci)
for group in (server, backups, environment, demo, *_JOBS, files, artifacts, chat, webhooks, audit):
    group.register(app)
app.add_typer(data.app, name="data", rich_help_panel="Jobs")
app.add_typer(artifacts.app, name="artifacts", rich_help_panel="Results and models")
app.add_typer(invitations.app, name="workers", rich_help_panel="The service")
app.add_typer(keys.app, name="keys", rich_help_panel="The service")
app.add_typer(projects.app, name="projects", rich_help_panel="The service")
app.add_typer(models.app, name="models", rich_help_panel="Results and models")
app.add_typer(schedules.app, name="schedules", rich_help_panel="Jobs")
app.add_typer(aliases.app, name="aliases", rich_help_panel="Results and models")


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
