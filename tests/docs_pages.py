"""What README and docs tell a reader to run: fenced blocks, and the commands in them."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/*.md", "k8s/*.md", "bench/*.md")
    for path in ROOT.glob(pattern)
    if path.name != "CHANGELOG.md"
)
LANGUAGES = {"sh", "python", "yaml", "json", "mermaid", "text"}
"""What a fence may name; `text` is shown output, a layout or a formula, never something to run."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    text: str


@dataclass(frozen=True)
class Command:
    """One command of a block in the shell's language, over as many lines as it takes."""

    page: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {self.text}"

    def words(self, folder: Path, environment: Mapping[str, str]) -> list[str]:
        """Returns the command's words as bash expands them in `folder`."""
        result = subprocess.run(
            ["bash", "-euc", f"printf '%s\\0' {self.text}"],
            cwd=folder,
            env={**environment},
            stdout=subprocess.PIPE,
            check=True,
        )
        return result.stdout.decode().split("\0")[:-1]


def read_blocks(page: str, text: str) -> Iterator[Block]:
    """Yields the fenced blocks of a page.

    Raises:
      ValueError: the last one has no end.
    """
    start, language, lines, indent = 0, "", [""], ""
    for number, line in enumerate(text.splitlines(), start=1):
        fence = re.fullmatch(r"( *)```(\w*)", line)
        if not start and fence:
            start, indent, language, lines = number, fence[1], fence[2], []
        elif start and fence:
            yield Block(page, start, language, "\n".join(lines) + "\n")
            start = 0
        elif start:
            lines.append(line.removeprefix(indent))
    if start:
        raise ValueError(f"{page}:{start}: the block has no end")


def split_commands(block: Block) -> Iterator[Command]:
    """Yields the commands of a block of shell; a line that ends inside quotes or in \\ goes on."""
    pending, start = "", 0
    for number, line in enumerate(block.text.splitlines(), start=block.line + 1):
        if not pending and (not line.strip() or line.startswith("#")):
            continue
        start = start if pending else number
        pending = f"{pending}\n{line}" if pending else line
        if pending.endswith("\\") or not _is_closed(pending):
            continue
        yield Command(block.page, start, pending)
        pending = ""
    if pending:
        raise ValueError(f"{block.page}:{start}: the command has no end: {pending}")


def _is_closed(text: str) -> bool:
    try:
        shlex.split(text, comments=True)
    except ValueError:
        return False
    return True


def all_blocks() -> list[Block]:
    """Returns the blocks of all pages."""
    return [
        block for page in PAGES for block in read_blocks(page, (ROOT / page).read_text("utf-8"))
    ]


def all_commands() -> list[Command]:
    """Returns the commands of all pages, in the order of the pages."""
    shell = (block for block in all_blocks() if block.language == "sh")
    return [command for block in shell for command in split_commands(block)]
