"""The verb `chat`: talk with a model, base or tuned, or with two of them side by side."""

import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from tunesmith.cli import output
from tunesmith.cli.job_options.values import finite

if TYPE_CHECKING:
    from tunesmith.cli.client import Client
    from tunesmith.cli.conversation import Conversation

_FORGET, _LEAVE = "/reset", ("/quit", "/exit")


def register(app: typer.Typer) -> None:
    """Add the verb to the command."""
    app.command(rich_help_panel="Results and models")(chat)


def chat(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A base model, or one that a job has made.")],
    compare: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Ask this one, too, and show both answers side by side.")
    ] = None,
    system: Annotated[
        str | None, typer.Option(metavar="TEXT", help="What the model is told before everything.")
    ] = None,
    message: Annotated[
        str | None, typer.Option("--message", "-m", metavar="TEXT", help="Ask this alone and end; '-' reads stdin.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0, max=2, callback=finite, help="0 always takes the likeliest token.")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="The most tokens of an answer.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same answer.")] = None,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Show how likely each token was: green 90 %, yellow 50 %, red less.")
    ] = False,
) -> None:
    """Talk with a model. Without a terminal, or with --message, it is asked once."""
    from tunesmith.cli.client import Client
    from tunesmith.cli.conversation import Conversation, Manner

    manner = Manner(temperature=temperature, max_tokens=max_tokens, seed=seed, probabilities=probabilities)
    told = [{"role": "system", "content": system}] if system is not None else []
    talks = [Conversation(name, manner, list(told)) for name in (model, compare) if name is not None]
    with Client() as client:
        if message is None and sys.stdin.isatty():
            _talk(client, talks)
        else:
            _ask(client, talks, _question(message))


def _question(message: str | None) -> str:
    text = sys.stdin.read() if message in (None, "-") else str(message)
    if not text.strip():
        raise typer.BadParameter("there is nothing to ask: give --message TEXT, or text on stdin.")
    return text.strip()


def _talk(client: "Client", talks: "list[Conversation]") -> None:
    """Until Ctrl-D or /quit. Ctrl-C breaks an answer off."""
    from tunesmith.cli.failures import report
    from tunesmith.tuning.errors import TunesmithError

    with suppress(ImportError):
        import readline  # noqa: F401 - from now on `input` knows earlier questions and the arrow keys

    beginnings = [list(talk.messages) for talk in talks]
    output.note(output.dim(f"{_FORGET} begins anew, {_LEAVE[0]} or Ctrl-D ends, Ctrl-C breaks an answer off"))
    while (question := _read()) is not None:
        if question == _FORGET:
            for talk, messages in zip(talks, beginnings, strict=True):
                talk.messages = list(messages)
        elif question:
            try:
                _ask(client, talks, question)
            except KeyboardInterrupt:
                output.note()
            except TunesmithError as error:
                report(error)


def _read() -> str | None:
    try:
        text = input("you  ").strip()
    except (EOFError, KeyboardInterrupt):
        output.note()
        return None
    return None if text in _LEAVE else text


def _ask(client: "Client", talks: "list[Conversation]", question: str) -> None:
    from functools import partial

    from tunesmith.cli.rendering.chat_text import write, write_side_by_side

    if len(talks) == 1:
        write(talks[0].ask(client, question))
        return
    write_side_by_side([talk.model for talk in talks], [partial(talk.ask, client, question) for talk in talks])
