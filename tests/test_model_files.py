"""How a version's folder is known."""

from __future__ import annotations

from pathlib import Path

import pytest

from model.files import holds_saved_model, version_number


@pytest.mark.parametrize(
    ("path", "number"),
    [
        ("registry/lm/3", 3),
        ("registry/lm/3/", 3),
        ("12", 12),
        ("registry/3/lm", None),
        ("v3", None),
        ("-3", None),
        (".", None),
        ("/", None),
    ],
)
def test_the_number_of_a_versions_folder(path: str, number: int | None) -> None:
    assert version_number(path) == number


def test_what_holds_a_saved_model(tmp_path: Path) -> None:
    assert not holds_saved_model(str(tmp_path))
    assert not holds_saved_model(str(tmp_path / "gone"))
    (tmp_path / "saved_model.pb").touch()
    assert holds_saved_model(str(tmp_path))
