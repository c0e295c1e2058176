"""Which addresses a process listens on, as /proc tells it."""

from __future__ import annotations

import ipaddress
import os
import re
import struct
from pathlib import Path


def listening(process: int) -> list[str]:
    """Returns the addresses on which a process listens for TCP, without ports."""
    links = []
    for descriptor in Path(f"/proc/{process}/fd").iterdir():
        try:
            links.append(os.readlink(descriptor))
        except OSError:  # closed meanwhile
            continue
    inodes = {found[1] for link in links if (found := re.fullmatch(r"socket:\[(\d+)\]", link))}
    rows = []
    for name in ("tcp", "tcp6"):
        table = Path(f"/proc/{process}/net/{name}")
        rows += table.read_text().splitlines()[1:] if table.exists() else []
    fields = [row.split() for row in rows]
    return [
        _address(field[1].partition(":")[0])
        for field in fields
        if field[3] == "0A" and field[9] in inodes
    ]


def _address(text: str) -> str:
    """Decodes an address of /proc/net/tcp: words of 32 bits in the machine's order."""
    words = [int(text[at : at + 8], 16) for at in range(0, len(text), 8)]
    address = ipaddress.ip_address(struct.pack(f"={len(words)}I", *words))
    return str(getattr(address, "ipv4_mapped", None) or address)


def strangers_reach(process: int) -> list[str]:
    """Returns the addresses on which other machines can reach a process."""
    return [one for one in listening(process) if not ipaddress.ip_address(one).is_loopback]
