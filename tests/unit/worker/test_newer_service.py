"""A worker of the last version under a service of this one: rolling upgrades."""

import json

from tunesmith.tuning.messages import HeartbeatReply
from tunesmith.worker.transport.wire import read_answer


def test_what_a_newer_service_adds_to_an_answer_is_ignored() -> None:
    answer = json.dumps({"cancel": True, "pause": False, "added_in_a_later_version": {"deep": [1]}}).encode()

    assert read_answer(HeartbeatReply, answer) == HeartbeatReply(cancel=True)
