"""The layout rules: who may import what, and how long a file may be."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping, Set
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LAYERS = ("pipelines", "components", "model")
"""A package imports only from itself and from those after it."""
NOT_SHIPPED = ("tests", "bench")
MAX_LINES = 500
"""Of a file, docstrings not counted."""
LIGHT = ("model/config.py", "model/text/vocab.py", "model/errors.py", "model/presets.py")
HEAVY = {"tensorflow", "tensorflow_text", "keras", "apache_beam", "kfp", "kubernetes", "matplotlib"}
"""Slow to import: nothing in LIGHT imports them, itself or through our own modules."""
LAUNCHERS = (
    "components/train/main.py",
    "components/train/component.py",
    "components/train/cluster/launcher.py",
    "components/export/registry.py",
    "components/serve/main.py",
    "components/export/promoting.py",
    "pipelines/cli/main.py",
    "pipelines/kubeflow/submit.py",
    "pipelines/kubeflow/schedule.py",
)
"""They start others' work, and import nothing of NUMERICS, nor do the functions that they run."""
NUMERICS = {"tensorflow", "tensorflow_text", "keras", "apache_beam"}
NOT_RUN = frozenset(
    {
        # bodies of other tasks, which the pipeline's graph names, and other commands
        "components/preprocess/component.py:find_inputs",
        "components/preprocess/component.py:preprocess",
        "components/evaluate/component.py:evaluate",
        "components/export/component.py:export",
        "pipelines/cli/stages.py:_prepare",
        "pipelines/cli/stages.py:_evaluate",
        "pipelines/cli/stages.py:_export",
        "pipelines/cli/models.py:_query",
        "pipelines/cli/runs.py:_run_graph",
        "pipelines/cli/runs.py:_demo",
        "components/quiet_tensorflow.py:import_tensorflow",
        # records that no charloom wrote, and what workers do with modules of both
        "model/data/records.py:encode_record",
        "model/data/example_reader.py:_parse_any",
        "model/training/profiler.py:Profiler",
    }
)
"""Functions and classes of the files that LAUNCHERS import, which they don't run."""


def imported_modules(
    path: str, source: str, *, leave_out: frozenset[str] = frozenset()
) -> Iterator[tuple[int, str]]:
    """Yields line and dotted name of everything that a file imports, wherever in the file.

    `from a import b` gives `a.b`; relative names are made absolute by `path`, which is
    relative to the root. What `leave_out` names as `path:name` is not looked into.
    """
    package = Path(path).parent.parts
    tree = ast.parse(source, filename=path)
    tree.body = [one for one in tree.body if f"{path}:{getattr(one, 'name', '')}" not in leave_out]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join((*start, *([node.module] if node.module else [])))
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            function = node.func
            called = getattr(function, "attr", None) or getattr(function, "id", None)
            if called in ("import_module", "__import__"):
                yield node.lineno, str(node.args[0].value)


def may_import(path: str, top: str) -> bool:
    """Whether the file at `path` may import the top-level package `top`."""
    file = Path(path)
    layer = file.parts[0]
    if top in LAYERS:
        return LAYERS.index(top) >= LAYERS.index(layer)
    if top in NOT_SHIPPED:
        return False
    if top == "kfp":
        return layer == "pipelines" or (layer == "components" and file.name == "component.py")
    if top == "apache_beam":
        return file.parts[:2] == ("components", "preprocess")
    if top == "kubernetes":
        return file.parts[:2] == ("components", "train")
    return True


def import_faults(files: Mapping[str, str]) -> list[str]:
    """Returns imports against the rules; `files` is path to source, paths relative to the root."""
    return [
        f"{path}:{line} imports {name}"
        for path, source in files.items()
        for line, name in imported_modules(path, source)
        if not may_import(path, name.split(".")[0])
    ]


def heavy_faults(
    files: Mapping[str, str],
    light: tuple[str, ...] = LIGHT,
    *,
    heavy: Set[str] = HEAVY,
    leave_out: frozenset[str] = frozenset(),
) -> list[str]:
    """Returns the ways by which a file of `light` comes to import something of `heavy`."""
    faults = []
    for start in light:
        todo = [(start,), *((start, file) for file in own_files(Path(start).parent.name))]
        seen: set[str] = set()
        for way in todo:  # grows as it goes, so the shortest way comes first
            if way[-1] in seen or way[-1] not in files:
                continue
            seen.add(way[-1])
            for _, name in imported_modules(way[-1], files[way[-1]], leave_out=leave_out):
                if name.split(".")[0] in heavy:
                    faults.append(" -> ".join((*way, name)))
                todo.extend((*way, found) for found in own_files(name))
    return faults


def own_files(name: str) -> list[str]:
    """Returns the files that importing `name` may run, were it a module of ours."""
    parts = name.split(".")
    files = []
    for end in range(1, len(parts) + 1):
        stem = "/".join(parts[:end])
        files += [f"{stem}.py", f"{stem}/__init__.py"]
    return files


def code_lines(source: str) -> int:
    """Returns the lines of a file that are not part of a docstring."""
    docstrings = {
        line
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    return len(source.splitlines()) - len(docstrings)


def long_files(files: Mapping[str, str]) -> list[str]:
    """Returns the files of more than MAX_LINES lines."""
    lengths = {path: code_lines(source) for path, source in files.items()}
    return [f"{path}: {length} lines" for path, length in lengths.items() if length > MAX_LINES]


def read_sources(*folders: str) -> dict[str, str]:
    return {
        path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
        for folder in folders
        for path in sorted((ROOT / folder).rglob("*.py"))
    }


def test_imports_go_one_way() -> None:
    files = read_sources(*LAYERS)
    assert set(LIGHT) <= set(files)
    assert import_faults(files) == []


def test_light_modules_import_nothing_heavy() -> None:
    assert heavy_faults(read_sources("model")) == []


def test_launchers_import_no_tensorflow() -> None:
    files = read_sources(*LAYERS)
    assert set(LAUNCHERS) <= set(files)
    assert heavy_faults(files, LAUNCHERS, heavy=NUMERICS, leave_out=NOT_RUN) == []


def test_python_loads_no_tensorflow_for_launchers() -> None:
    names = ", ".join(path.removesuffix(".py").replace("/", ".") for path in LAUNCHERS)
    program = f"import sys, {names}; print(sorted({NUMERICS} & sys.modules.keys()))"
    command = [sys.executable, "-W", "ignore", "-c", program]
    loaded = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (loaded.stdout, loaded.returncode) == ("[]\n", 0), loaded.stderr


def test_what_launchers_do_not_run_is_there() -> None:
    files = read_sources(*LAYERS)
    for place in sorted(NOT_RUN):
        path, name = place.split(":")
        assert name in {getattr(one, "name", "") for one in ast.parse(files[path]).body}, place


def test_no_file_is_too_long() -> None:
    assert long_files(read_sources(*LAYERS, "tests")) == []


def test_tests_are_flat() -> None:
    # tests/model would shadow model, and tests/__init__.py would change the modules' names.
    assert not (ROOT / "tests" / "__init__.py").exists()
    folders = {path.parent.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("*.py")}
    assert folders == {"tests"}
    assert not (ROOT / "tests" / "model").exists()


@pytest.mark.parametrize(
    ("path", "source", "faults"),
    [
        ("pipelines/cli/main.py", "import model.config\nfrom components.train import main", []),
        ("components/train/main.py", "import pipelines", ["pipelines"]),
        ("components/train/main.py", "from components.evaluate import gate", []),
        ("model/text/tokenizer.py", "from components import train", ["components.train"]),
        (
            "model/text/tokenizer.py",
            "def f():\n  from pipelines.cli.main import main",
            ["pipelines.cli.main.main"],
        ),
        ("model/text/tokenizer.py", "from . import config\nfrom .config import Config", []),
        ("model/text/tokenizer.py", "from ...components import train", ["components.train"]),
        ("model/text/tokenizer.py", "import modelling, componentsx", []),
        ("model/text/tokenizer.py", "import tests.conftest", ["tests.conftest"]),
        ("components/train/component.py", "from kfp import dsl", []),
        ("pipelines/graph.py", "from kfp import kubernetes", []),
        ("components/train/main.py", "from kfp import dsl", ["kfp.dsl"]),
        ("model/component.py", "import kfp", ["kfp"]),
        ("components/preprocess/engine/transforms.py", "import apache_beam as beam", []),
        ("components/train/main.py", "import apache_beam as beam", ["apache_beam"]),
        ("pipelines/cli/main.py", "import apache_beam.io", ["apache_beam.io"]),
        ("components/train/local/launcher.py", "import kubernetes", []),
        ("pipelines/kubeflow/submit.py", "import kubernetes.client", ["kubernetes.client"]),
        ("model/text/tokenizer.py", "importlib.import_module('kfp.dsl')", ["kfp.dsl"]),
        ("model/text/tokenizer.py", "__import__('kfp')", ["kfp"]),
    ],
)
def test_import_faults_are_found(path: str, source: str, faults: list[str]) -> None:
    found = [fault.split(" imports ")[1] for fault in import_faults({path: source})]
    assert found == faults


def test_heavy_imports_are_found_through_other_modules() -> None:
    files = {
        "model/__init__.py": "",
        "model/config.py": "import json, numpy\nfrom model import errors",
        "model/errors.py": "from model.text.vocab import Vocabulary",
        "model/text/vocab.py": "def load():\n    import tensorflow as tf",
        "model/text/tokenizer.py": "import keras",
    }
    assert heavy_faults(files, ("model/config.py",)) == [
        "model/config.py -> model/errors.py -> model/text/vocab.py -> tensorflow"
    ]
    files["model/text/vocab.py"] = ""
    assert heavy_faults(files, ("model/config.py",)) == []
    files |= {"model/__init__.py": "import keras", "model/config.py": ""}
    assert heavy_faults(files, ("model/config.py",)) == [
        "model/config.py -> model/__init__.py -> keras"
    ]


def test_long_files_are_found() -> None:
    assert long_files({"a.py": "x = 1\n" * MAX_LINES}) == []
    assert long_files({"a.py": "x = 1\n" * (MAX_LINES + 1)}) == [f"a.py: {MAX_LINES + 1} lines"]
    documented = '"""What\nit is."""\nclass A:\n    """Of\n\n    them."""\n    x = 1\n    """y"""\n'
    assert code_lines(documented) == 2
    assert long_files({"a.py": documented + "x = 1\n" * (MAX_LINES - 2)}) == []
    assert long_files({"a.py": documented + "x = 1\n" * (MAX_LINES - 1)}) != []
