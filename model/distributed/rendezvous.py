"""Workers meet before TensorFlow starts, with a time limit and the names of missing peers.

Creating `MultiWorkerMirroredStrategy` waits up to an hour for a peer and blocks all other Python
threads. So each worker first listens on its own port, until its TensorFlow server takes the port
over, and connects to all others. It sends its rank on connecting, and "all" once it has reached
everyone:

  charloom worker 1 of 3\n    all\n

A worker that has reached all peers and received "all" from each continues.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import selectors
import socket
import threading
import time
from collections.abc import Sequence

from model.errors import RestartableError

PEER_SECONDS = 300.0
"""How long a worker waits for the others before it gives up."""

_ALL = b"all\n"
_RETRY_SECONDS = 0.2


def wait_for_peers(hosts: Sequence[str], *, rank: int, seconds: float) -> None:
    """Returns once all workers have reached one another.

    Args:
      hosts: `host:port` of every worker.
      rank: this worker's rank.
      seconds: how long to wait.

    Raises:
      RestartableError: a peer did not arrive, or left again; the message names it, and a note
        per peer states why it was not reached.
    """
    try:
        servers = _listen(hosts[rank])
    except OSError as error:
        raise RestartableError(
            f"worker {rank} can't listen on {hosts[rank]} ({error.strerror}); start again"
        ) from None
    meeting = _Meeting(hosts, rank)
    with contextlib.ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        for server in servers:
            selector.register(stack.enter_context(server), selectors.EVENT_READ)
        for peer in meeting.peers:
            threading.Thread(target=meeting.call, args=(peer,), daemon=True).start()
        try:
            _hear(meeting, servers, selector, deadline=time.monotonic() + seconds)
            missing = meeting.missing()
            if missing:
                raise RestartableError(
                    f"{meeting.names(missing)} did not arrive within {seconds:g} s"
                )
        except RestartableError as error:
            for peer in meeting.missing():
                if peer in meeting.refused:
                    error.add_note(f"worker {peer}'s {meeting.refused[peer]}")
            raise
        finally:
            meeting.over.set()
            for key in list(selector.get_map().values()):
                if key.fileobj not in servers:
                    key.fileobj.close()  # type: ignore[union-attr]


def _listen(own: str) -> list[socket.socket]:
    """Opens the port of `host:port` at the host's addresses.

    Opens it on all interfaces (IPv4 and, if available, IPv6) if the name does not resolve yet, is a
    name of loopback to this machine alone, or has addresses that are translated on the way here.
    """
    host, _, port = own.rpartition(":")
    servers: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
        places = dict.fromkeys((family, address) for family, _, _, _, address in found)
        if not any(_is_alias(host, str(address[0])) for _, address in places):
            for family, address in places:
                servers.append(socket.create_server(address, family=family))
            return servers
    except OSError as error:
        for server in servers:
            server.close()
        if not isinstance(error, socket.gaierror) and error.errno != errno.EADDRNOTAVAIL:
            raise
    if socket.has_dualstack_ipv6():
        return [socket.create_server(("", int(port)), family=socket.AF_INET6, dualstack_ipv6=True)]
    return [socket.create_server(("", int(port)))]


def _is_alias(host: str, address: str) -> bool:
    """Whether a name stands for loopback here, as /etc/hosts often has it for the machine's own."""
    literal = address == host.strip("[]")
    return ipaddress.ip_address(address).is_loopback and not literal and host != "localhost"


class _Meeting:
    """One worker's view of the others."""

    def __init__(self, hosts: Sequence[str], rank: int) -> None:
        self.hosts = hosts
        self.rank = rank
        self.peers = [peer for peer in range(len(hosts)) if peer != rank]
        self.over = threading.Event()
        self.heard: dict[int, bytes] = {}
        """What each peer has sent."""
        self.refused: dict[int, str] = {}
        """Why each peer is currently unreachable."""
        self._reached: set[int] = set()
        self._told: set[int] = set()

    def greeting(self, peer: int) -> bytes:
        """Returns the first message of a peer."""
        return b"charloom worker %d of %d\n" % (peer, len(self.hosts))

    def complete(self) -> bool:
        """Whether everyone has arrived and knows it."""
        said_all = {peer for peer, text in self.heard.items() if text.endswith(_ALL)}
        return len(said_all) == len(self._told) == len(self.peers)

    def names(self, peers: Sequence[int]) -> str:
        """Formats peers, such as "worker 2 (host:port)"."""
        return ", ".join(f"worker {peer} ({self.hosts[peer]})" for peer in peers)

    def missing(self) -> list[int]:
        """Returns the peers that did not arrive; if all did, those that lack another peer."""
        if self.complete():
            return []
        gone = [peer for peer in self.peers if peer not in self._reached or peer not in self.heard]
        return gone or [peer for peer in self.peers if not self.heard[peer].endswith(_ALL)]

    def call(self, peer: int) -> None:
        """Connects to a peer, retrying until it answers; sends "all" once everyone is reached."""
        host, _, port = self.hosts[peer].rpartition(":")
        while not self.over.is_set():
            try:
                with socket.create_connection((host.strip("[]"), int(port)), timeout=5) as line:
                    line.sendall(self.greeting(self.rank))
                    self._reached.add(peer)
                    self.refused.pop(peer, None)
                    line.settimeout(_RETRY_SECONDS / 4)
                    while len(self._reached) < len(self.peers) and not self.over.is_set():
                        _raise_if_closed(line)
                    if not self.over.is_set():
                        line.sendall(_ALL)
                        self._told.add(peer)
                    return
            except OSError as error:  # not listening yet, name not resolvable yet, or gone again
                self._reached.discard(peer)
                self.refused[peer] = _refusal(error)
                self.over.wait(_RETRY_SECONDS)


def _refusal(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return "name does not resolve"
    return f"port does not answer ({error.strerror or error})"


def _raise_if_closed(line: socket.socket) -> None:
    try:
        if not line.recv(1):
            raise ConnectionResetError
    except TimeoutError:  # no data is expected
        pass


def _hear(
    meeting: _Meeting,
    servers: Sequence[socket.socket],
    selector: selectors.BaseSelector,
    *,
    deadline: float,
) -> None:
    said: dict[socket.socket, bytes] = {}
    by_greeting = {meeting.greeting(peer): peer for peer in meeting.peers}
    while not meeting.complete() and time.monotonic() < deadline:
        for key, _ in selector.select(_RETRY_SECONDS / 4):
            assert isinstance(key.fileobj, socket.socket)
            if key.fileobj in servers:
                line, _address = key.fileobj.accept()
                line.setblocking(False)
                selector.register(line, selectors.EVENT_READ)
                said[line] = b""
                continue
            line = key.fileobj
            try:
                data = line.recv(256)
            except OSError:
                data = b""
            said[line] += data
            start = said[line].partition(b"\n")[0] + b"\n"
            peer = by_greeting.get(start)
            if peer is not None:
                meeting.heard[peer] = said[line]
            if data:
                continue
            selector.unregister(line)
            line.close()
            if peer is not None and not said[line].endswith(_ALL):
                absent = [other for other in meeting.missing() if other != peer]
                raise RestartableError(
                    f"{meeting.names([peer])} left before all workers were there"
                    + (f"; {meeting.names(absent)} had not arrived" if absent else "")
                )
