"""The templates of HTML pages; text of a corpus in them is escaped."""

from __future__ import annotations

import functools
import os

import jinja2


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
