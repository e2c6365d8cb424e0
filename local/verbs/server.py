"""Verbs that run the service here or look at this machine: up, doctor."""

import typer

_PANEL = "The service"
_PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def register(app: typer.Typer) -> None:
    """Add the verbs to the command."""
    app.command(rich_help_panel=_PANEL, context_settings=_PASSED_ON)(up)
    app.command(rich_help_panel=_PANEL, context_settings=_PASSED_ON)(doctor)


def up(context: typer.Context) -> None:
    """Run the whole service on this machine until Ctrl-C."""
    _pass_on("up", context.args)


def doctor(context: typer.Context) -> None:
    """Look at this machine and this installation, and say what is wrong."""
    _pass_on("doctor", context.args)


def _pass_on(verb: str, arguments: list[str]) -> None:
    """Run a verb that reads its own options, so that its imports wait until it is wanted."""
    from tunesmith.local.up import command

    inner = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    inner.command()(getattr(command, verb))
    inner(args=arguments, prog_name=f"tunesmith {verb}")
