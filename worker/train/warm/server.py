"""The warm process at work: with everything imported it waits for requests, and forks if nothing speaks against it."""

import gc
import os
import socket

from transformers.utils import import_utils

import tunesmith.worker.train.session  # noqa: F401 - what a trainer imports first, and longest
from tunesmith.worker.fork_protocol import ForkRequest, Word, next_request, say
from tunesmith.worker.train.warm.forked import fork_trainer
from tunesmith.worker.train.warm.guard import Guard


def serve(control: socket.socket) -> None:
    """Answer requests until the worker is gone."""
    _forget_answers()
    gc.collect()
    gc.freeze()  # a collection in a fork would otherwise write to, and so copy, every page
    guard = Guard(descriptors={0, 1, 2, control.fileno()})
    say(control, Word(ready=True))
    while (asked := next_request(control)) is not None:
        _answer(control, guard, *asked)


def _forget_answers() -> None:
    """transformers asked while it was imported what is installed and visible; a trainer asks under its own plan."""
    for question in vars(import_utils).values():
        if hasattr(question, "cache_clear"):
            question.cache_clear()


def _answer(control: socket.socket, guard: Guard, request: ForkRequest, descriptors: list[int]) -> None:
    refused = guard.obstacle(received=descriptors) or fork_trainer(request, descriptors)
    if refused is not None:
        say(control, Word(refused=refused))
    for descriptor in descriptors:
        os.close(descriptor)
