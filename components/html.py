"""Loads templates of HTML pages and escapes corpus text for them."""

from __future__ import annotations

import functools
import os
import unicodedata

import jinja2

NOT_AVAILABLE = "not available"
LINE_END = "↵"
"""Shown for a line end."""
SHOWN_CHARACTERS = 400
"""Longer texts are cut: a line or word of a corpus may have megabytes."""

_HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
_SPELT = {"\u200c", "\u200d"}  # format characters used in Persian, Hindi and other spellings


@functools.cache
def load_template(module: str, name: str) -> jinja2.Template:
    """Returns a template in a module's folder.

    Args:
      module: `__file__` of the module.
      name: the template's file name.
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
    """Returns corpus text as one displayable line.

    Line ends become a symbol. Other control and format characters (which could change the direction
    of the page's own text) and lone surrogates become U+FFFD.
    """
    text = str(value)
    if len(text) > SHOWN_CHARACTERS:
        text = text[:SHOWN_CHARACTERS] + "…"
    hidden = [char for char in set(text) - _SPELT if unicodedata.category(char) in _HIDDEN]
    return text.translate({ord(char): LINE_END if char == "\n" else "\ufffd" for char in hidden})
