"""Options in groups: a verb names a group as one parameter, and the command line has an option for each field."""

import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields
from inspect import Parameter
from typing import Any, get_type_hints


def with_groups(**groups: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Replace the parameters of these names by the fields of their dataclasses, in the place where they stand.

    The verb is called with the dataclasses. Their annotations and defaults are typer's, as those of any verb.
    """

    def decorate(verb: Callable[..., None]) -> Callable[..., None]:
        parameters = list(_expanded(verb, groups))

        @functools.wraps(verb)
        def call(**given: Any) -> None:
            made = {
                name: group(**{field.name: given.pop(field.name) for field in fields(group)})
                for name, group in groups.items()
            }
            verb(**given, **made)

        call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return call

    return decorate


def _expanded(verb: Callable[..., None], groups: dict[str, type]) -> Iterator[Parameter]:
    hints = get_type_hints(verb, include_extras=True)
    for name, parameter in inspect.signature(verb).parameters.items():
        if name in groups:
            yield from _parameters(groups[name])
        else:
            yield parameter.replace(kind=Parameter.KEYWORD_ONLY, annotation=hints[name])


def _parameters(group: type) -> Iterator[Parameter]:
    hints = get_type_hints(group, include_extras=True)
    for field in fields(group):
        default = Parameter.empty if field.default is MISSING else field.default
        yield Parameter(field.name, Parameter.KEYWORD_ONLY, default=default, annotation=hints[field.name])
