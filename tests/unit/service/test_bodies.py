"""What is said of a body that cannot be read: in the words of JSON, which its sender knows."""

import pytest

from tunesmith.service.aliases.schemas import SetAlias
from tunesmith.service.inference.schemas import ChatCompletionCreate
from tunesmith.service.web.bodies import parse
from tunesmith.tuning.errors import InvalidRequest
from tunesmith.tuning.values.base import Value

SAID = '"messages": [{"role": "user", "content": "x"}]'


@pytest.mark.parametrize(
    ("model", "body", "message"),
    [
        (SetAlias, "[]", "The request body must be a JSON object, not []."),
        (SetAlias, "null", "The request body must be a JSON object, not null."),
        (SetAlias, '{"model": null}', "Invalid value for 'model': null. Input should be a valid string."),
        (SetAlias, '{"model": true}', "Invalid value for 'model': true. Input should be a valid string."),
        (
            ChatCompletionCreate,
            '{"model": "m", "messages": []}',
            "Invalid value for 'messages': []. List should have at least 1 item, not 0.",
        ),
        (
            ChatCompletionCreate,
            f'{{"model": "m", {SAID}, "temperature": NaN}}',
            "Invalid value for 'temperature': NaN. Input should be a finite number.",
        ),
    ],
)
def test_a_wrong_value_is_shown_as_it_was_sent(model: type[Value], body: str, message: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse(model, body.encode())
    assert refused.value.message == message
