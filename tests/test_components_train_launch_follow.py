from collections.abc import Iterator

import pytest
from urllib3.exceptions import ProtocolError

from components.train.launch_follow import _Position, _whole_lines


def printed(position: _Position, lines: list[tuple[str, str]]) -> list[str]:
    position.begin()
    return [text for stamp, text in lines if position.is_new(stamp)]


def test_a_log_that_is_read_again_is_printed_once() -> None:
    first, second = "2026-11-25T18:00:00.5Z", "2026-11-25T18:00:00.51Z"
    third = "2026-11-25T18:00:01Z"
    log = [(first, "a"), (second, "b"), (second, "b"), (second, "c"), (third, "d")]
    for cut in range(len(log) + 1):
        for again in range(cut, len(log) + 1):
            position = _Position()
            shown = printed(position, log[:cut]) + printed(position, log[:again])
            assert shown + printed(position, log) == ["a", "b", "b", "c", "d"], (cut, again)


class Broken:
    def __init__(self, blocks: list[bytes], *, breaks: bool):
        self.blocks, self.breaks = blocks, breaks

    def stream(self, **_: object) -> Iterator[bytes]:
        yield from self.blocks
        if self.breaks:
            raise ProtocolError("cut")


def test_lines_are_put_together_from_blocks() -> None:
    stream = Broken([b"a\nb", b"c\n", b"d"], breaks=False)
    assert list(_whole_lines(stream, ended=True)) == ["a", "bc", "d"]
    assert list(_whole_lines(stream, ended=False)) == ["a", "bc"]


def test_what_a_cut_leaves_of_a_line_is_no_line() -> None:
    lines = []
    with pytest.raises(ProtocolError):  # noqa: PT012
        for line in _whole_lines(Broken([b"a\nhal"], breaks=True), ended=True):
            lines.append(line)
    assert lines == ["a"]
