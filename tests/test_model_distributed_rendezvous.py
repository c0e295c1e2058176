from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from worker_processes import free_hosts

from model.distributed import rendezvous
from model.distributed.rendezvous import wait_for_peers
from model.errors import RestartableError


def connect(host: str) -> socket.socket:
    name, port = host.split(":")
    deadline = time.monotonic() + 300
    while True:
        try:
            return socket.create_connection((name, int(port)))
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def meet(
    hosts: Sequence[str], ranks: Sequence[int], *, seconds: float, late: Callable[[], None]
) -> list[str]:
    """Lets workers meet in threads, the last after `late`; returns what each raised."""
    errors = [""] * len(hosts)

    def work(rank: int) -> None:
        try:
            wait_for_peers(hosts, rank=rank, seconds=seconds)
        except RestartableError as error:
            errors[rank] = str(error)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in ranks]
    for thread in threads[:-1]:
        thread.start()
    late()
    threads[-1].start()
    for thread in threads:
        thread.join(60)
    return errors


@pytest.mark.parametrize("count", [2, 3, 5])
def test_all_meet_and_the_ports_are_free_again(count: int) -> None:
    hosts = free_hosts(count)
    errors = meet(hosts, range(count), seconds=30, late=lambda: time.sleep(0.3))
    assert errors == [""] * count
    for host in hosts:
        socket.create_server(("127.0.0.1", int(host.split(":")[1]))).close()


def test_who_never_comes_is_named() -> None:
    hosts = free_hosts(4)
    hosts[2] = "no-such-host.invalid:80"
    errors = meet(hosts, [0, 3], seconds=2, late=lambda: None)
    missing = f"worker 1 ({hosts[1]}), worker 2 ({hosts[2]})"
    assert f"{missing} did not arrive within 2 s" in errors
    assert all(missing in errors[rank] for rank in (0, 3))


def test_a_stranger_is_ignored_and_who_says_nothing_is_missing() -> None:
    hosts = free_hosts(3)
    kept = []

    def intrude() -> None:
        for text in (b"GET / HTTP/1.1\n\n", b"charloom worker 1 of 2\nall\n", b""):
            line = connect(hosts[0])
            line.sendall(text)
            kept.append(line)
        kept.pop().close()

    with socket.create_server(("127.0.0.1", int(hosts[1].split(":")[1]))):  # accepts, says nothing
        errors = meet(hosts, [0, 2], seconds=3, late=intrude)
    for line in kept:
        line.close()
    assert f"worker 1 ({hosts[1]}) did not arrive within 3 s" in errors


def test_who_leaves_before_all_are_there_is_named_at_once() -> None:
    hosts = free_hosts(3)

    def leave() -> None:
        line = connect(hosts[0])
        line.sendall(b"charloom worker 1 of 3\n")
        line.close()

    errors: list[str] = []

    def work() -> None:
        with pytest.raises(RestartableError) as caught:
            wait_for_peers(hosts, rank=0, seconds=600)
        errors.append(str(caught.value))

    thread = threading.Thread(target=work)
    thread.start()
    leave()
    thread.join(60)
    assert errors == [
        f"worker 1 ({hosts[1]}) left before all workers were there; worker 2 ({hosts[2]}) had not "
        "arrived"
    ]


def test_a_port_that_is_taken() -> None:
    hosts = free_hosts(2)
    port = int(hosts[0].split(":")[1])
    with (
        socket.create_server(("127.0.0.1", port)),
        pytest.raises(RestartableError, match=rf"^worker 0 can't listen on {hosts[0]} \(Addr"),
    ):
        wait_for_peers(hosts, rank=0, seconds=1)


@pytest.mark.parametrize(
    ("resolved", "listens"),
    [
        ({}, [""]),  # not yet
        ({"own": ["127.0.1.1"]}, [""]),  # as /etc/hosts of Debian has it
        ({"own": ["203.0.113.7"]}, [""]),  # an address of nobody here
        ({"127.0.0.1": ["127.0.0.1"]}, ["127.0.0.1"]),
        ({"localhost": ["127.0.0.1"]}, ["127.0.0.1"]),
    ],
)
def test_a_worker_listens_where_tf_config_names_it(
    resolved: dict[str, list[str]], listens: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def resolve(host: str, port: int, **options: Any) -> list[Any]:
        if host not in resolved:
            raise socket.gaierror
        (address,) = next(iter(resolved.values()))
        return getaddrinfo(address, port, **options)

    getaddrinfo = socket.getaddrinfo
    monkeypatch.setattr(rendezvous.socket, "getaddrinfo", resolve)
    port = free_hosts(1)[0].rpartition(":")[2]
    opened = rendezvous._listen(f"{next(iter(resolved), 'own')}:{port}")
    addresses = ["" if one.getsockname()[0] in ("::", "0.0.0.0") else one.getsockname()[0]
                 for one in opened]  # fmt: skip
    for server in opened:
        server.close()
    assert addresses == listens
