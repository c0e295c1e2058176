from __future__ import annotations

import pytest

from model.distributed.proxies import keep_from_proxies


@pytest.mark.parametrize(
    ("given", "all_programs", "grpc"),
    [
        ({}, "h-0.x,h-1.x", "h-0.x,h-1.x"),
        ({"no_proxy": "a,.svc", "NO_PROXY": "b"}, "a,.svc,h-0.x,h-1.x", "a,.svc,h-0.x,h-1.x"),
        ({"NO_PROXY": "b,"}, "b,h-0.x,h-1.x", "b,h-0.x,h-1.x"),
        ({"no_proxy": "a", "no_grpc_proxy": "c"}, "a,h-0.x,h-1.x", "c,h-0.x,h-1.x"),
        ({"no_proxy": "h-1.x,a"}, "h-1.x,a,h-0.x", "h-1.x,a,h-0.x"),
    ],
)
def test_hosts_are_not_called_through_a_proxy(
    given: dict[str, str], all_programs: str, grpc: str
) -> None:
    environment = dict(given)
    keep_from_proxies(["h-0.x", "h-1.x"], environment)
    assert environment == given | {
        "no_proxy": all_programs,
        "NO_PROXY": all_programs,
        "no_grpc_proxy": grpc,
    }
