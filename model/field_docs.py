"""The docstrings of dataclass fields, for help texts and documentation tables."""

from __future__ import annotations

import ast
import inspect
import textwrap
from typing import Any


def field_docs(cls: type[Any]) -> dict[str, str]:
    """Returns the docstring of each field of a dataclass, in field order, as one line.

    Raises:
      ValueError: a field has no docstring.
    """
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(body, ast.ClassDef)
    docs = {}
    for field, following in zip(body.body, [*body.body[1:], None], strict=True):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            if not isinstance(following, ast.Expr) or not isinstance(following.value, ast.Constant):
                raise ValueError(f"{cls.__name__}.{field.target.id} has no docstring")
            docs[field.target.id] = " ".join(str(following.value.value).split())
    return docs
