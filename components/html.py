"""The templates of HTML pages, and texts in them; text of a corpus is escaped."""

from __future__ import annotations

import functools
import os
import unicodedata

import jinja2

NOT_AVAILABLE = "not available"
LINE_END = "↵"
"""Shown for the end of a line."""
SHOWN_CHARACTERS = 400
"""Longer texts are cut: a line, or a word, of a corpus may have megabytes."""

_HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
_SPELT = {"\u200c", "\u200d"}  # format characters that Persian, Hindi and others spell with


@functools.cache
def load_template(module: str, name: str) -> jinja2.Template:
    """Returns a template that lies beside a module.

    Args:
      module: `__file__` of the module.
      name: of the template.
    """
    environment = jinja2.Environment(
        autoescape=True,
        keep_trailing_newline=True,
        loader=jinja2.FileSystemLoader(os.path.dirname(os.path.abspath(module))),
        lstrip_blocks=True,
        trim_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(name)


def visible(value: object) -> str:
    """Returns a text of the corpus as one line that can be shown.

    Line ends become a sign. Other control and format characters (they could turn the
    direction of the page's own text) and lone surrogates become U+FFFD.
    """
    text = str(value)
    if len(text) > SHOWN_CHARACTERS:
        text = text[:SHOWN_CHARACTERS] + "…"
    hidden = [char for char in set(text) - _SPELT if unicodedata.category(char) in _HIDDEN]
    return text.translate({ord(char): LINE_END if char == "\n" else "\ufffd" for char in hidden})
