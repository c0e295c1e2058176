"""The pages of the documentation: links, what they name in the repository, the status of decisions."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from docs_pages import LANGUAGES, PAGES, ROOT, Block, all_blocks, read_blocks, split_commands
from reference_pages import subcommands

from pipelines.cli.main import build_parser

DECISIONS = sorted((ROOT / "docs" / "decisions").glob("*.md"))
LINK = re.compile(r"\]\(([^)\s]+)\)")
STATUS = re.compile(r"Status: (Accepted|Superseded( in part)? by .+)\.")


def anchors(path: Path) -> set[str]:
    """Returns the names under which GitHub links to a page's headings."""
    headings = re.findall(r"^#+ (.+)$", path.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in headings}


@pytest.mark.parametrize("page", [*PAGES, *(f"docs/decisions/{path.name}" for path in DECISIONS)])
def test_links_lead_somewhere(page: str) -> None:
    path = ROOT / page
    for link in LINK.findall(path.read_text("utf-8")):
        target, _, anchor = link.partition("#")
        if "://" in target:
            continue
        found = path.parent / target if target else path
        assert found.exists(), link
        assert not anchor or anchor in anchors(found), link


def test_every_block_says_what_it_is() -> None:
    bad = [f"{one.page}:{one.line}" for one in all_blocks() if one.language not in LANGUAGES]
    assert bad == [], f"name the block's language: {', '.join(sorted(LANGUAGES))}"


def test_documents_are_whole() -> None:
    for block in all_blocks():
        if block.language == "yaml":
            assert all(isinstance(one, dict) for one in yaml.safe_load_all(block.text)), block
        elif block.language == "json":
            json.loads(block.text)


@pytest.mark.parametrize("page", PAGES)
def test_commands_within_a_sentence_exist(page: str) -> None:
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text("utf-8"), flags=re.DOTALL)
    for words in (code.split() for code in re.findall(r"`charloom\s([^`]+)`", text)):
        parser = build_parser()
        while words and words[0] in subcommands(parser):
            parser = subcommands(parser)[words.pop(0)]
        flags = {flag for action in parser._actions for flag in action.option_strings}
        given = {
            word.partition("=")[0].strip("[]") for word in words if word.startswith(("-", "[-"))
        }
        assert given <= flags, f"{parser.prog}: {' '.join(words)}"
        is_unknown = subcommands(parser) and words and words[0][0] != "-" and words[0] != "COMMAND"
        assert not is_unknown, f"{parser.prog}: {' '.join(words)}"


def test_the_index_names_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text("utf-8")
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert pages - set(LINK.findall(index)) == set()


def test_the_architecture_names_every_package() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    for top in ("model", "components", "pipelines"):
        table = text[text.index(f"| `{top}/` |") :].split("\n\n")[0]
        named = {f"{top}/{name}" for name in re.findall(r"^\| `([\w/]+)/` \|", table, re.M)[1:]}
        found = {
            path.parent.relative_to(ROOT).as_posix()
            for path in (ROOT / top).rglob("__init__.py")
            if path.parent != ROOT / top
        }
        assert named == found


def test_versions_are_those_of_the_lock() -> None:
    locked = re.search(r"^apache-beam==(\S+)", (ROOT / "requirements.lock").read_text(), re.M)
    assert locked
    page = (ROOT / "docs" / "running-beam-on-flink.md").read_text("utf-8")
    assert f"VERSION={locked[1]} " in page
    assert f"job_server:{locked[1]} " in page


@pytest.mark.parametrize("path", DECISIONS, ids=lambda path: path.stem)
def test_a_decision_has_a_status(path: Path) -> None:
    title, empty, status = path.read_text("utf-8").splitlines()[:3]
    assert title.startswith(f"# {path.name[:4]}: ")
    assert empty == ""
    assert STATUS.fullmatch(status), "write Status: Accepted. or Status: Superseded in part by ..."
    for number in re.findall(r"\[(\d{4})\]", status):
        assert number > path.name[:4]


def test_commands_go_on_over_lines() -> None:
    text = "a 'b\n  c' \\\n  d  # e\n\n# f\ng\n"
    commands = list(split_commands(Block("page", 1, "sh", text)))
    assert [(one.line, one.text) for one in commands] == [(2, "a 'b\n  c' \\\n  d  # e"), (7, "g")]
    assert commands[0].words(ROOT, {"PATH": "/usr/bin:/bin"}) == ["a", "b\n  c", "d"]
    with pytest.raises(ValueError, match=r"^page:2: the command has no end: a '$"):
        list(split_commands(Block("page", 1, "sh", "a '\n")))


def test_blocks_are_found() -> None:
    text = "x\n```sh\na\n```\n  ```text\n    b\n  ```\n"
    blocks = list(read_blocks("page", text))
    assert blocks == [Block("page", 2, "sh", "a\n"), Block("page", 5, "text", "  b\n")]
    with pytest.raises(ValueError, match=r"^page:1: the block has no end$"):
        list(read_blocks("page", "```\n"))
