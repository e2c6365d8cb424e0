"""Whoever asks together is answered together, and nobody is left without an answer."""

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from tunesmith.service.database.batches import Batches


@pytest.mark.parametrize("answer", [RuntimeError("no thread"), None, [7]])
def test_a_query_that_goes_wrong_is_told_to_all_who_asked_and_the_next_is_asked(answer: object) -> None:
    answers = [answer, {"a": 1}]

    async def ask(keys: Sequence[str]) -> Mapping[str, int]:
        given = answers.pop(0)
        if isinstance(given, Exception):
            raise given
        return given  # type: ignore[return-value]

    async def story() -> None:
        batches = Batches(ask)
        told = await asyncio.wait_for(asyncio.gather(*map(batches.get, "abc"), return_exceptions=True), 5)
        assert [isinstance(one, Exception) for one in told] == [True] * 3
        assert await batches.get("a") == 1

    asyncio.run(story())
