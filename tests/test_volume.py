"""What the marker `extra` leaves out of `make test` has a test of its kind that stays."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from volume import keep_first

TESTS = Path(__file__).parent
Function = ast.FunctionDef | ast.AsyncFunctionDef


def is_extra(node: ast.expr) -> bool:
    return ast.unparse(node).partition("(")[0] == "pytest.mark.extra"


def module_marks(module: ast.Module) -> Iterator[ast.expr]:
    """Yields what `pytestmark` holds."""
    for node in module.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark":
            yield from node.value.elts if isinstance(node.value, ast.List) else [node.value]


def count_staying(path: Path) -> int:
    """Returns how many test functions of a file are not extra as a whole."""
    module = ast.parse(path.read_text("utf-8"))
    if any(map(is_extra, module_marks(module))):
        return 0
    functions = [node for node in module.body if isinstance(node, Function)]
    return sum(
        function.name.startswith("test_") and not any(map(is_extra, function.decorator_list))
        for function in functions
    )


def faults(path: Path) -> list[str]:
    """Returns the uses of `extra` in a file that leave no test of the kind."""
    module = ast.parse(path.read_text("utf-8"))
    found, stays = [], count_staying(path) > 0
    marks = [node for node in ast.walk(module) if isinstance(node, ast.expr) and is_extra(node)]
    # A mark with an argument is walked twice: as a call, and as the function of that call.
    called = {id(node.func) for node in marks if isinstance(node, ast.Call)}
    for mark in marks:
        if id(mark) in called:
            continue
        twins = [ast.literal_eval(one) for one in mark.args] if isinstance(mark, ast.Call) else []
        for twin in twins:
            if not (path.parent / twin).is_file() or not count_staying(path.parent / twin):
                found.append(
                    f"{path.name}:{mark.lineno} names {twin}, which has no test that stays"
                )
        if not stays and not twins:
            found.append(f"{path.name}:{mark.lineno} is extra, and no test of the file stays")
    return found


def test_each_extra_test_has_one_of_its_kind_that_stays() -> None:
    files = sorted(TESTS.glob("test_*.py"))
    assert sum("mark.extra" in path.read_text("utf-8") for path in files) > 3
    assert [fault for path in files for fault in faults(path)] == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("@pytest.mark.extra\ndef test_a(): ...\ndef test_b(): ...", []),
        (
            "@pytest.mark.extra\ndef test_a(): ...",
            ["a.py:1 is extra, and no test of the file stays"],
        ),
        ("pytestmark = [pytest.mark.extra('b.py')]\ndef test_a(): ...", []),
        (
            "pytestmark = pytest.mark.extra('c.py')\ndef test_a(): ...",
            ["a.py:1 names c.py, which has no test that stays"],
        ),
        (
            "@pytest.mark.extra('d.py')\ndef test_a(): ...",
            ["a.py:1 names d.py, which has no test that stays"],
        ),
    ],
)
def test_faults_are_found(text: str, expected: list[str], tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(text)
    (tmp_path / "b.py").write_text("def test_b(): ...")
    (tmp_path / "c.py").write_text("@pytest.mark.extra\ndef test_c(): ...")
    assert faults(tmp_path / "a.py") == expected


def test_the_first_cases_stay() -> None:
    cases = keep_first([(1, "a"), (2, "b"), (3, "c")], 2)
    assert [case.values for case in cases] == [(1, "a"), (2, "b"), (3, "c")]
    assert [[mark.name for mark in case.marks] for case in cases] == [[], [], ["extra"]]
    with pytest.raises(ValueError, match="at least one case stays"):
        keep_first([1, 2], 0)


def test_ci_runs_all_but_what_is_extra() -> None:
    makefile = (TESTS.parent / "Makefile").read_text("utf-8")
    rules = dict(re.findall(r"^(test[a-z-]*): .*\n\t(.+)$", makefile, re.MULTILINE))
    assert rules == {
        "test": "$(BIN)/python $(PYTEST) -m 'not extra'",
        "test-all": "$(BIN)/python $(PYTEST)",
        "test-lowest": "$(LOWEST)/bin/python $(PYTEST) @tests/lowest.txt",
    }
    script = (TESTS.parent / ".ci" / "run").read_text("utf-8")
    assert "\nmake check test TEST_FLAGS=--junitxml=build/tests.xml </dev/null\n" in script


def test_the_tests_on_the_lowest_versions_are_there() -> None:
    first, second, *lines = (TESTS / "lowest.txt").read_text("utf-8").splitlines()
    assert (first, second) == ("-m", "not extra")
    deselected = [line.split("=")[1] for line in lines if line.startswith("--deselect=")]
    names = lines[len(deselected) :]
    assert names == sorted(set(names))
    assert [name for name in names if not (TESTS.parent / name).is_file()] == []
    for file, test in (one.split("::") for one in deselected):
        assert f"def {test}(" in (TESTS.parent / file).read_text("utf-8")


def test_the_lower_ends_of_all_ranges_are_what_the_lowest_lock_has() -> None:
    """In `boto3>=1.44` what comes after 1.44 is free: that version has no `.0` everywhere."""
    declared = (TESTS.parent / "setup.py").read_text("utf-8")
    ranges = re.findall(r'"([a-z0-9-]+)(?:\[\w+\])?>=([\d.]+)', declared)
    ranges.remove(("torch", "2.9"))  # in neither lock
    lock = (TESTS.parent / "requirements-lowest.lock").read_text("utf-8")
    locked = re.findall(r"^([a-z0-9-]+)(?:\[\w+\])?==([\d.]+)", lock, re.MULTILINE)
    assert {"numpy", "tensorflow", "boto3", "moto"} <= {name for name, _ in ranges}
    for name, lowest in ranges:
        found = [version for one, version in locked if one == name]
        assert any(f"{version}.".startswith(f"{lowest}.") for version in found), (name, found)
