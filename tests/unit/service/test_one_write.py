"""What an answer consists of reaches the socket together, in order, and without waiting for more than a turn."""

import asyncio
from collections.abc import Callable

import pytest

from tunesmith.service.web.connections.one_write import OneWrite


class Socket(asyncio.Transport):
    """Notes each system call that it would make."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1)})
        self.calls: list[bytes] = []

    def write(self, data: bytes) -> None:  # type: ignore[override]
        self.calls.append(data)

    def close(self) -> None:
        self.calls.append(b"<closed>")


def calls_of(use: Callable[[OneWrite], None], *, turns: int) -> list[bytes]:
    """What reached the socket, so many turns of the event loop after it was used."""

    async def work() -> list[bytes]:
        socket = Socket()
        use(OneWrite(socket, loop=asyncio.get_running_loop()))
        for _ in range(turns):
            await asyncio.sleep(0)
        return list(socket.calls)

    return asyncio.run(work())


def write(*pieces: bytes) -> Callable[[OneWrite], None]:
    def use(transport: OneWrite) -> None:
        for piece in pieces:
            transport.write(piece)

    return use


@pytest.mark.parametrize("turns", [0, 1])
def test_head_and_body_are_one_write_and_at_once(turns: int) -> None:
    assert calls_of(write(b"head ", b"body"), turns=turns) == [b"head body"]


def test_a_head_alone_is_sent_in_the_next_turn() -> None:
    assert calls_of(write(b"head"), turns=0) == []
    assert calls_of(write(b"head"), turns=1) == [b"head"]


def test_no_more_than_one_piece_of_a_stream_is_kept() -> None:
    calls = calls_of(write(*(b"%d" % number for number in range(9))), turns=0)
    assert calls == [b"01", b"23", b"45", b"67"]
    assert b"".join(calls_of(write(*(b"%d" % number for number in range(9))), turns=1)) == b"012345678"


def test_what_was_written_is_sent_before_the_end() -> None:
    def use(transport: OneWrite) -> None:
        transport.write(b"last words")
        transport.close()

    assert calls_of(use, turns=2) == [b"last words", b"<closed>"]


def test_all_else_is_the_transports_own() -> None:
    def use(transport: OneWrite) -> None:
        transport.write(str(transport.get_extra_info("peername")).encode())

    assert calls_of(use, turns=1) == [b"('127.0.0.1', 1)"]
