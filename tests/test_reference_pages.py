"""docs/cli.md, docs/config.md and docs/parameters.md say what the code says."""

from __future__ import annotations

import dataclasses
from typing import get_type_hints

import pytest
from reference_pages import DOCS, PAGES, config_page, parameters_page, walk

from components.run_settings import setting_names
from model.config import Config
from model.field_docs import field_docs
from pipelines.cli.main import build_parser


@pytest.mark.parametrize("name", PAGES)
def test_the_committed_page_is_what_is_generated(name: str) -> None:
    assert (DOCS / name).read_text("utf-8") == PAGES[name](), (
        f"docs/{name} is out of date; run make docs and commit the result"
    )


def test_every_argument_has_a_help_text() -> None:
    for parser in walk(build_parser()):
        assert parser.description, parser.prog
        for action in parser._actions:
            assert action.help or action.nargs == "A...", (parser.prog, action.dest)


def test_the_pages_have_a_row_for_each_setting() -> None:
    fields = config_page().partition("## Presets")[0] + parameters_page()
    rows = [line.split("`")[1] for line in fields.splitlines() if line.startswith("| `")]
    assert [name for name in rows if "." in name] == setting_names()
    assert "| `run.steps_share` | `0.5` |  | Share of `train.steps` to train " in parameters_page()
    assert "| `corpus_window_days` | `1` | Days " in parameters_page()


def test_every_field_has_a_docstring() -> None:
    for cls in get_type_hints(Config).values():
        assert list(field_docs(cls)) == [field.name for field in dataclasses.fields(cls)]


def test_a_field_without_docstring_is_an_error() -> None:
    class Bare:
        """A class."""

        named: int = 1
        """Has one."""
        other: int = 2

    with pytest.raises(ValueError, match=r"^Bare\.other has no docstring$"):
        field_docs(Bare)
