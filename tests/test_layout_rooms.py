"""The rooms: which package of a folder may import which, and no circle between files."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping

import pytest
from test_layout import LAYERS, imported_modules, read_sources

ROOMS = {
    "model": (
        "training",
        "serving",
        "evaluation",
        "checkpointing",
        "network",
        "baselines",
        "data",
        "text",
        "distributed",
        "*",
    ),
    "components": ("preprocess serve train", "export", "evaluate", "*"),
    "components/preprocess": (
        "component",
        "main",
        "engine",
        "inputs",
        "analysis",
        "passes",
        "sources",
        "*",
    ),
    "components/train": ("component", "main", "weights_writer", "worker", "cluster local", "*"),
    "pipelines": ("cli", "kubeflow local", "compile", "graph", "cli/flags", "*"),
}
"""A folder -> its packages and modules; each imports only from itself and from those after it.

Those on one level, with a space between them, do not import one another.
`*` is whatever modules the row does not name; packages that it does not name are an error.
"""


def imports_of_files(files: Mapping[str, str]) -> dict[str, list[str]]:
    """Returns which of the files each of them imports, in functions too, but not for types only."""
    graph = {}
    for path, source in files.items():
        for_types = _lines_for_types(source) if "TYPE_CHECKING" in source else set()
        names = (name for line, name in imported_modules(path, source) if line not in for_types)
        graph[path] = sorted({file for name in names if (file := _file_of(name, files))} - {path})
    return graph


def _lines_for_types(source: str) -> set[int]:
    """Returns the lines that only a type checker reads."""
    return {
        line
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for line in range(node.body[0].lineno, (node.body[-1].end_lineno or 0) + 1)
    }


def _file_of(name: str, files: Mapping[str, str]) -> str | None:
    """Returns the file of a dotted name, which is a module or something in it."""
    stem = name.replace(".", "/")
    parent = stem.rpartition("/")[0]
    candidates = (f"{stem}.py", f"{stem}/__init__.py", f"{parent}.py", f"{parent}/__init__.py")
    return next((path for path in candidates if path in files), None)


def room_faults(files: Mapping[str, str]) -> list[str]:
    """Returns imports against ROOMS, and what has no room."""
    graph = imports_of_files(files)
    faults = []
    for folder, levels in ROOMS.items():
        level_of = {room: at for at, level in enumerate(levels) for room in level.split()}
        room_of = {
            path: _room(path.removeprefix(f"{folder}/"), [*level_of])
            for path in graph
            if path.startswith(f"{folder}/")
        }
        for path, here in room_of.items():
            if here not in level_of:
                faults.append(f"{path} has no room")
                continue
            faults += [
                f"{path} imports {other}"
                for other in graph[path]
                if (there := room_of.get(other, here)) in level_of
                and there != here
                and level_of[there] <= level_of[here]
            ]
    return faults


def _room(path: str, rooms: list[str]) -> str:
    """Returns the room of a file, whose path is relative to the folder."""
    inside = path.removesuffix(".py")
    named = [room for room in rooms if f"{inside}/".startswith(f"{room}/")]
    return max(named, key=len, default="*" if "/" not in inside else inside)


def circles(graph: Mapping[str, list[str]]) -> list[str]:
    """Returns the circles of a graph that a walk into its depth meets, one for each way back."""
    found, done = [], set()

    def walk(path: str, way: tuple[str, ...]) -> Iterator[str]:
        if path in way:
            yield " -> ".join((*way[way.index(path) :], path))
        elif path not in done:
            for other in graph[path]:
                yield from walk(other, (*way, path))
            done.add(path)

    for path in graph:
        found += walk(path, ())
    return found


def test_packages_import_only_what_is_below_them() -> None:
    assert room_faults(read_sources(*LAYERS)) == []


def test_files_import_in_no_circle() -> None:
    assert circles(imports_of_files(read_sources(*LAYERS))) == []


def test_rooms_are_those_of_the_tree() -> None:
    files = read_sources(*LAYERS)
    for folder, levels in ROOMS.items():
        rooms = [room for level in levels for room in level.split()]
        inside = [
            path.removeprefix(f"{folder}/") for path in files if path.startswith(f"{folder}/")
        ]
        assert {_room(path, rooms) for path in inside} == set(rooms)


@pytest.mark.parametrize(
    ("path", "source", "faults"),
    [
        ("model/serving/export.py", "from model.evaluation import scoring", []),
        ("model/serving/export.py", "from model.evaluation.scoring import score_words", []),
        ("model/serving/export.py", "from model.config import Config", []),
        (
            "model/evaluation/scoring.py",
            "def f():\n    from model.serving.export import export",
            ["model/evaluation/scoring.py imports model/serving/export.py"],
        ),
        (
            "model/config.py",
            "import model.evaluation.scoring",
            ["model/config.py imports model/evaluation/scoring.py"],
        ),
        (
            "model/config.py",
            "from typing import TYPE_CHECKING\n"
            "if TYPE_CHECKING:\n    from model.serving.export import export",
            [],
        ),
        ("model/attic/old.py", "", ["model/attic/old.py has no room"]),
        ("model/attic.py", "", []),
        ("pipelines/cli/flags.py", "import model.errors", []),
        ("pipelines/kubeflow/package.py", "from pipelines.cli import flags", []),
        ("pipelines/local/output.py", "import pipelines.local.runner", []),
        (
            "pipelines/local/runner.py",
            "import pipelines.kubeflow.package",
            ["pipelines/local/runner.py imports pipelines/kubeflow/package.py"],
        ),
        (
            "pipelines/kubeflow/package.py",
            "from pipelines.cli import main",
            ["pipelines/kubeflow/package.py imports pipelines/cli/main.py"],
        ),
    ],
)
def test_faults_of_rooms_are_found(path: str, source: str, faults: list[str]) -> None:
    names = ("model/serving/export", "model/evaluation/scoring", "model/config")
    names += ("pipelines/cli/flags", "pipelines/cli/main", "pipelines/kubeflow/package")
    files = {f"{name}.py": "" for name in names}
    assert room_faults(files | {path: source}) == faults


def test_circles_are_found() -> None:
    files = {
        "model/__init__.py": "",
        "model/a.py": "from model.b import one",
        "model/b.py": "from model import c, d",
        "model/c.py": "def f():\n    from .a import two",
        "model/d.py": "import model.e",
        "model/e.py": "",
    }
    assert circles(imports_of_files(files)) == [
        "model/a.py -> model/b.py -> model/c.py -> model/a.py"
    ]
    files["model/c.py"] = "import typing\nif typing.TYPE_CHECKING:\n    from model.a import two"
    assert circles(imports_of_files(files)) == []
    files["model/e.py"] = "import model.d"
    assert circles(imports_of_files(files)) == ["model/d.py -> model/e.py -> model/d.py"]
