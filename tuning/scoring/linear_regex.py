"""Regular expressions that take time in proportion to the text, whatever the pattern: no backtracking.

Python's own matcher tries one way after another and may take years over thirty characters. Here a pattern becomes a
non-deterministic automaton whose states are all followed at once, one character after another (Thompson, "Regular
expression search algorithm", CACM 11(6), 1968). The syntax is Python's without what an automaton cannot do: references
to groups, looking ahead or behind, possessive and atomic groups.
"""

import re
import re._constants as codes  # type: ignore[import-not-found]
import re._parser as syntax  # type: ignore[import-not-found]
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

MOST_STATES = 500  # at each character as many steps at most
LONGEST_PATTERN = 1000  # characters

Test = Callable[[str], bool]
Place = Callable[[str, int], bool]
_CASELESS, _LINES, _DOT_ALL, _ASCII = re.IGNORECASE, re.MULTILINE, re.DOTALL, re.ASCII


class UnusablePattern(ValueError):
    """The pattern is no regular expression, or one that no automaton of bearable size can follow."""


@dataclass
class _State:
    """Where the automaton may be. `test` reads one character, `place` looks at where it stands, else it goes on."""

    test: Test | None = None
    place: Place | None = None
    follows: list[int] = field(default_factory=list)


class LinearPattern:
    """A compiled pattern."""

    def __init__(self, pattern: str) -> None:
        """Compile.

        Raises:
            UnusablePattern: with the reason.
        """
        if len(pattern) > LONGEST_PATTERN:
            raise UnusablePattern(f"it has {len(pattern):,} characters, and {LONGEST_PATTERN:,} are the most")
        tree = _parsed(pattern)
        self._states: list[_State] = [_State()]  # the end
        self._start = self._sequence(tree, 0, flags=tree.state.flags)

    def is_found_in(self, text: str) -> bool:
        """Whether some part of the text matches."""
        alive: set[int] = set()
        for at in range(len(text) + 1):
            alive = self._spread({self._start, *alive}, text, at)
            if 0 in alive:
                return True
            if at < len(text):
                alive = {
                    after
                    for one in alive
                    if (test := self._states[one].test) is not None and test(text[at])
                    for after in self._states[one].follows
                }
        return False

    def _spread(self, reached: Iterable[int], text: str, at: int) -> set[int]:
        """All states that can be reached without reading a character."""
        seen: set[int] = set()
        waiting = list(reached)
        while waiting:
            one = waiting.pop()
            if one in seen:
                continue
            seen.add(one)
            state = self._states[one]
            if state.test is None and (state.place is None or state.place(text, at)):
                waiting += state.follows
        return seen

    def _add(self, state: _State) -> int:
        if len(self._states) >= MOST_STATES:
            raise UnusablePattern(f"it becomes an automaton of more than {MOST_STATES} states")
        self._states.append(state)
        return len(self._states) - 1

    def _sequence(self, parts: Iterable[tuple[Any, Any]], after: int, *, flags: int) -> int:
        """States for the parts in their order; built from the end, each knows what follows."""
        for code, argument in reversed(list(parts)):
            after = self._part(code, argument, after, flags=flags)
        return after

    def _part(self, code: Any, argument: Any, after: int, *, flags: int) -> int:
        if code is codes.AT:
            return self._add(_State(place=_place(argument, flags), follows=[after]))
        if code is codes.BRANCH:
            ways = [self._sequence(way, after, flags=flags) for way in argument[1]]
            return self._add(_State(follows=ways))
        if code is codes.SUBPATTERN:
            _, added, removed, inner = argument
            return self._sequence(inner, after, flags=(flags | added) & ~removed)
        if code in (codes.MAX_REPEAT, codes.MIN_REPEAT):
            least, most, inner = argument
            return self._repeat(inner, after, least=least, most=most, flags=flags)
        return self._add(_State(test=_test(code, argument, flags), follows=[after]))

    def _repeat(self, inner: Any, after: int, *, least: int, most: Any, flags: int) -> int:
        if most is codes.MAXREPEAT:
            loop = self._add(_State(follows=[after]))
            self._states[loop].follows.append(self._sequence(inner, loop, flags=flags))
            after = loop
        else:
            end = after
            for _ in range(most - least):
                once = self._sequence(inner, after, flags=flags)
                after = self._add(_State(follows=[once, end]))
        for _ in range(least):
            after = self._sequence(inner, after, flags=flags)
        return after


def _parsed(pattern: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # of syntax whose meaning Python is about to change
            re.compile(pattern)
            return syntax.parse(pattern)
    except (re.error, RecursionError, OverflowError, Warning) as error:
        raise UnusablePattern(str(error) or type(error).__name__) from error


def _test(code: Any, argument: Any, flags: int) -> Test:
    """What a character must be."""
    if code is codes.ANY:
        return (lambda _: True) if flags & _DOT_ALL else (lambda character: character != "\n")
    if code is codes.LITERAL:
        return _caseless(lambda character: ord(character) == argument, flags)
    if code is codes.NOT_LITERAL:
        is_it = _caseless(lambda character: ord(character) == argument, flags)
        return lambda character: not is_it(character)
    if code is codes.IN:
        return _one_of(argument, flags)
    raise UnusablePattern(f"{_NAMES.get(code, str(code).lower())} cannot be followed in linear time")


def _one_of(items: list[tuple[Any, Any]], flags: int) -> Test:
    negated = bool(items) and items[0][0] is codes.NEGATE
    tests = [_item(code, argument, flags) for code, argument in (items[1:] if negated else items)]
    within = _caseless(lambda character: any(test(character) for test in tests), flags)
    return (lambda character: not within(character)) if negated else within


def _item(code: Any, argument: Any, flags: int) -> Test:
    if code is codes.LITERAL:
        return lambda character: ord(character) == argument
    if code is codes.RANGE:
        return lambda character: argument[0] <= ord(character) <= argument[1]
    name = str(argument).removeprefix("CATEGORY_")
    within = _CATEGORIES[name.removeprefix("NOT_")]
    is_negated, is_ascii = name.startswith("NOT_"), bool(flags & _ASCII)
    return lambda character: (within(character) and (character.isascii() or not is_ascii)) is not is_negated


def _caseless(test: Test, flags: int) -> Test:
    if not flags & _CASELESS:
        return test
    return lambda character: any(
        len(form) == 1 and test(form) for form in {character, character.lower(), character.upper()}
    )


def _place(code: Any, flags: int) -> Place:
    """Where between two characters the automaton must stand."""
    if code is codes.AT_BEGINNING and flags & _LINES:
        return lambda text, at: at == 0 or text[at - 1] == "\n"
    if code in (codes.AT_BEGINNING, codes.AT_BEGINNING_STRING):
        return lambda _, at: at == 0
    if code is codes.AT_END and flags & _LINES:
        return lambda text, at: at == len(text) or text[at] == "\n"
    if code is codes.AT_END:
        return lambda text, at: at == len(text) or (at == len(text) - 1 and text[at] == "\n")
    if code is codes.AT_END_STRING:
        return lambda text, at: at == len(text)
    wanted = code is codes.AT_BOUNDARY
    is_word = _item(codes.CATEGORY, codes.CATEGORY_WORD, flags)

    def at_boundary(text: str, at: int) -> bool:
        before = at > 0 and is_word(text[at - 1])
        behind = at < len(text) and is_word(text[at])
        return bool(text) and (before != behind) is wanted

    return at_boundary


_CATEGORIES: dict[str, Test] = {
    "DIGIT": str.isdecimal,
    "SPACE": str.isspace,
    "WORD": lambda character: character.isalnum() or character == "_",
}
_NAMES = {
    codes.GROUPREF: "a reference to a group",
    codes.GROUPREF_EXISTS: "a condition on a group",
    codes.ASSERT: "looking ahead or behind",
    codes.ASSERT_NOT: "looking ahead or behind",
    codes.POSSESSIVE_REPEAT: "a possessive repetition",
    codes.ATOMIC_GROUP: "an atomic group",
}
