"""Keeps connections between our own processes away from a web proxy. No TensorFlow here."""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping

LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""Names and addresses of this machine."""


def keep_from_proxies(hosts: Iterable[str], environment: MutableMapping[str, str]) -> None:
    """Makes programs connect directly to hosts; gRPC, too, would use `http_proxy`.

    Args:
      hosts: names and addresses, without a port.
      environment: environment variables, changed in place.
    """
    given = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    own = environment.get("no_grpc_proxy") or given  # gRPC reads only one of them
    for variable, before in (("no_proxy", given), ("NO_PROXY", given), ("no_grpc_proxy", own)):
        names = [*(part for part in before.split(",") if part), *hosts]
        environment[variable] = ",".join(dict.fromkeys(names))
