"""TF_CONFIG: the addresses of a group's workers and the rank of this one. No TensorFlow here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from model.errors import InputError


def format_tf_config(hosts: Sequence[str], rank: int) -> str:
    """Returns the TF_CONFIG of one worker.

    Args:
      hosts: `host:port` of every worker; worker 0 is the chief.
      rank: this worker's rank.
    """
    return json.dumps(
        {"cluster": {"worker": list(hosts)}, "task": {"type": "worker", "index": rank}}
    )


def parse_tf_config(text: str) -> tuple[list[str], int]:
    """Parses a TF_CONFIG; an empty one means a single worker.

    Returns:
      `host:port` of every worker, and the rank of this one.

    Raises:
      InputError: it is malformed.
    """
    try:
        parsed: Any = json.loads(text or format_tf_config(["-"], 0))
        hosts, rank = list(parsed["cluster"]["worker"]), int(parsed["task"]["index"])
        if not 0 <= rank < len(hosts):
            raise ValueError(f"task index {rank} of {len(hosts)} workers")
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"TF_CONFIG is malformed ({error}): {text}") from None
    return hosts, rank
