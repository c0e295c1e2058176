import datetime
from collections.abc import Iterator
from typing import cast

import pytest
from urllib3.exceptions import ProtocolError

from components.train.cluster.api import ClusterApi
from components.train.cluster.manifest import INDEX_LABEL
from components.train.cluster.worker_log import WorkerLog, _LineReader, _Position


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

    def close(self) -> None:
        pass

    def stream(self, **_: object) -> Iterator[bytes]:
        yield from self.blocks
        if self.breaks:
            raise ProtocolError("cut")


def test_lines_are_put_together_from_blocks() -> None:
    lines = _LineReader(Broken([b"a\nb", b"c\n", b"d"], breaks=False))
    assert (list(lines), lines.rest) == (["a", "bc"], "d")


def test_what_a_cut_leaves_of_a_line_is_no_line() -> None:
    seen, lines = [], _LineReader(Broken([b"a\nhal"], breaks=True))
    with pytest.raises(ProtocolError):  # noqa: PT012
        for line in lines:
            seen.append(line)
    assert (seen, lines.rest) == (["a"], "")


class Server:
    """Answers with a log that breaks off early, as if all were well, for a while."""

    def __init__(self, answers: list[bytes]):
        self.answers = answers
        self.ages: list[int | None] = []

    def open_log(self, pod: str, *, since_seconds: int | None) -> Broken:
        assert pod == "worker-0"
        self.ages.append(since_seconds)
        return Broken([self.answers.pop(0)], breaks=False)


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
@pytest.mark.parametrize("end", [b"", b"\n"])
def test_an_ended_pods_log_is_read_until_nothing_new_comes(phase: str, end: bytes) -> None:
    whole = b"1Z a\n2Z b\n3Z last words" + end
    answers = [whole[:7], whole[:12], whole[:14], whole, whole, whole, whole]
    server, shown = Server(answers), []
    log = WorkerLog(cast("ClusterApi", server), shown.append)
    labels = {INDEX_LABEL: "0"}
    pod = {"metadata": {"name": "worker-0", "labels": labels}, "status": {"phase": phase}}
    while not log.update([pod]):
        pass
    assert log.update([pod])
    assert shown == ["a", "b", "last words"]
    assert len(answers) == 2


def test_only_what_is_new_is_read_again() -> None:
    written = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=100)
    first, second = (f"{written + datetime.timedelta(seconds=one):%FT%T.%f}789Z" for one in (0, 90))
    log = f"{first} a\n{second} b\n".encode()
    server, shown = Server([log[:-5], log, log]), []
    worker_log = WorkerLog(cast("ClusterApi", server), shown.append)
    pod = {"metadata": {"name": "worker-0", "labels": {INDEX_LABEL: "0"}}}
    for _ in range(3):
        assert not worker_log.update([pod | {"status": {"phase": "Running"}}])
    assert shown == ["a", "b"]
    everything, from_first, from_second = server.ages
    assert everything is None
    assert from_first is not None
    assert from_second is not None
    assert 160 <= from_first < 170
    assert from_first - from_second in (89, 90, 91)  # each is rounded up
