"""Patterns mean what Python's own mean, and none of them takes long."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.tuning.scoring.linear_regex import LinearPattern, UnusablePattern

ATOMS = ["a", "b", ".", "[ab]", "[^a]", r"\d", r"\w", r"\s", "^", "$", r"\b", r"\B", "é", "A"]


def grown(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    endings = st.sampled_from(["*", "+", "?", "{2}", "{1,3}", "*?", ""])
    return st.one_of(
        st.builds(lambda one, two: one + two, inner, inner),
        st.builds(lambda one, two: f"(?:{one}|{two})", inner, inner),
        st.builds(lambda one, end: f"({one}){end}", inner, endings),
    )


PATTERNS = st.recursive(st.sampled_from(ATOMS), grown, max_leaves=6)


@given(PATTERNS, st.text(alphabet="abAé1 \n_", max_size=8), st.sampled_from(["", "(?i)", "(?m)", "(?s)"]))
def test_a_pattern_is_found_where_python_finds_it(pattern: str, text: str, flag: str) -> None:
    assert LinearPattern(flag + pattern).is_found_in(text) is (re.search(flag + pattern, text) is not None)


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|aa)+$", "(a|a)*b", "(.*a){12}$", r"^(\w+\s?)*$"])
def test_a_pattern_that_explodes_elsewhere_is_quick_here(pattern: str) -> None:
    began = time.perf_counter()
    LinearPattern(pattern).is_found_in("a" * 3000 + "!")
    assert time.perf_counter() - began < 5


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("(", "unterminated"),
        (r"(a)\1", "a reference to a group"),
        ("a(?=b)", "looking ahead"),
        ("(?>a)b", "an atomic group"),
        ("(((a{30}){30}){30})", "more than 500 states"),
        ("a" * 2000, "1,000 are the most"),
    ],
)
def test_what_cannot_be_followed_is_refused_with_the_reason(pattern: str, reason: str) -> None:
    with pytest.raises(UnusablePattern, match=reason):
        LinearPattern(pattern)
