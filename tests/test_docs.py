"""Every fenced command of README and docs works as it is printed.

The pages' commands run in order, each page in a folder of its own, on the training that all tests
share. `RULES` says how a command is executed; one that no rule names fails the test.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from docs_pages import ROOT, Command, all_blocks, all_commands
from kfp_server import Server, isolate, serve
from serving import Server as ModelServer
from serving import serving

from model import presets
from model.config import read_config, with_overrides
from pipelines.cli.main import build_parser, main
from pipelines.kubeflow import client, run_monitor

ENDPOINT = "KF_PIPELINES_ENDPOINT"
OPEN_GATE = ("gate.beat=[]", "gate.tolerance=1", "gate.max_drift=1", "gate.max_slice_loss=100")
"""With these, the few steps of the tests' training pass as a warm start, too."""
ASKED_ENDS = 5
"""How often a client may ask the stand-in for a run that has ended."""


@dataclass(frozen=True)
class Rule:
    """How commands are executed.

    `how` is one of: `first`, `run` (our command line in this process; Kubeflow's answers come from
    `kfp_server`), `serve` (a process), `post` (the request that curl would send), `assign` (a
    variable for later commands), `make` (a dry run), `parse` (our parser alone), `syntax` (bash's
    parser, and files of the repository that are named exist). `first` is `run` in the fixture that
    all pages begin with. `why` says what else holds a command that is not run.
    """

    how: str
    pattern: str
    why: str = ""
    page: str = ""
    extra: bool = False
    """Long: run with -m extra only; else parsed."""


CLUSTER = "needs a cluster; tests/test_k8s_*.py render and check the manifests"
DOCKER = "needs Docker; tests/test_k8s_images.py checks both files"
RULES = (
    Rule("make", r"make [a-z-]+( +#.*)?"),
    Rule("assign", r"(export )?[A-Z_]+=\S+( +#.*)?"),
    Rule("run", r"charloom run ", "a minute each", extra=True),
    Rule("first", r"charloom (prepare|train|evaluate|export) +--(input texts )?.*", page="README.md"),
    Rule("run", r"charloom train .*--profile", "a training of its own", extra=True),
    Rule("run", r"charloom (next|registry|schedule|score|submit) "),
    Rule("serve", r"charloom serve --model registry/lm( |$)"),
    Rule("post", r"curl --json "),
    Rule("parse", r"charloom serve ", "the champion is served by the command of docs/serving.md"),
    Rule("parse", r"charloom tensorboard ", "runs in tests/test_pipelines_cli_tensorboard.py"),
    Rule("parse", r"charloom runs gc ", "runs in tests/test_pipelines_cli_collect_runs.py"),
    Rule("parse", r"charloom prepare .*(Flink|job_endpoint)", "runs in tests/test_flink.py"),
    Rule("parse", r"charloom prepare .*dask_runner", "runs in tests/test_dask.py"),
    Rule("syntax", r"kubectl ", CLUSTER),
    Rule("syntax", r"docker ", DOCKER),
    Rule("syntax", r"mvn |java ", "needs Maven and Java; tests/test_flink.py starts the same jar"),
    Rule("syntax", r"pip install |echo .*uv pip compile", "needs a network"),
    Rule("syntax", r"\.venv/bin/python -m pytest ", "runs tests"),
)  # fmt: skip
COMMANDS = all_commands()


def rule_of(command: Command) -> Rule:
    for rule in RULES:
        if rule.page in ("", command.page) and re.match(rule.pattern, command.text, re.DOTALL):
            return rule
    pytest.fail(f"{command}: no rule of RULES says how to execute it", pytrace=False)


class Walk:
    """The commands of a page, executed in a folder."""

    def __init__(self, folder: Path, kubeflow: Server, stack: contextlib.ExitStack) -> None:
        self.folder = folder
        self.variables = {ENDPOINT: kubeflow.host}
        self._stack = stack
        self._models: list[ModelServer] = []

    def execute(self, command: Command, how: str) -> None:
        words = command.words(self.folder, {**os.environ, **self.variables})
        getattr(self, f"_{how}")(words)

    def _run(self, words: list[str]) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.folder)
            for name, value in self.variables.items():
                patch.setenv(name, value)
            assert main(words[1:]) == 0, shlex.join(words)

    _first = _run

    def _serve(self, words: list[str]) -> None:
        assert words[:3] == ["charloom", "serve", "--model"]
        server = self._stack.enter_context(serving(str(self.folder / words[3]), *words[4:]))
        self._models.append(server)

    def _post(self, words: list[str]) -> None:
        program, flag, body, url = words
        host, slash, path = url.partition("/")
        assert (program, flag, host) == ("curl", "--json", "localhost:8501")
        status, answer, _ = self._models[-1].ask("POST", slash + path, body)
        assert status == 200, answer

    def _assign(self, words: list[str]) -> None:
        name, _, value = words[-1].partition("=")
        self.variables.setdefault(name, value)  # the stand-in's address stays

    def _make(self, words: list[str]) -> None:
        subprocess.run(["make", "--dry-run", "--silent", *words[1:]], cwd=ROOT, check=True)


def parse(command: Command, variables: dict[str, str]) -> None:
    """Has our own parser read a command, and bash what is not ours."""
    subprocess.run(["bash", "-n", "-c", command.text], check=True)
    words = shlex.split(command.text, comments=True)
    missing = [
        word for word in words
        if re.match(r"(bench|docs|k8s|pipelines|tests)/", word) and not (ROOT / word).exists()
    ]  # fmt: skip
    assert not missing, str(command)
    if words[0] == "charloom":
        build_parser().parse_args(command.words(ROOT / "tests", {**os.environ, **variables})[1:])


def copy_seed(shared: Path, folder: Path) -> None:
    """Gives a page what earlier commands of the README have made."""
    for name in ("texts", "records", "registry"):
        shutil.copytree(shared / name, folder / name)
    (folder / "corpus").symlink_to("texts")


@pytest.fixture(scope="module")
def kubeflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("kubeflow")
    with pytest.MonkeyPatch.context() as patch, serve(folder) as server:
        isolate(patch, folder)
        patch.setattr(run_monitor, "POLL_SECONDS", 0.02)
        patch.setattr(client, "_PAUSES", (0.0,))
        yield server


@pytest.fixture(scope="module")
def small_demo(tiny_training: str) -> Iterator[None]:
    """Has the preset demo be what the tests' shared training was made with."""
    config = with_overrides(read_config(f"{tiny_training}/config.json"), OPEN_GATE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(presets.PRESETS, "demo", lambda: config)
        yield


@pytest.fixture(scope="module")
def shared(
    small_demo: None,
    kubeflow: Server,
    corpus: Path,
    tiny_records: str,
    tiny_training: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The folder in which the README's stages have run; the first two find their work done."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(corpus, folder / "texts")
    shutil.copytree(tiny_records, folder / "records")
    shutil.copytree(tiny_training, folder / "work")
    with contextlib.ExitStack() as stack:
        walk = Walk(folder, kubeflow, stack)
        for command in COMMANDS:
            if rule_of(command).how == "first":
                walk.execute(command, "first")
    (folder / "out").mkdir()
    (folder / "out" / "registry").symlink_to("../registry")
    return folder


def walk_page(page: str, folder: Path, kubeflow: Server, ways: set[str], *, extra: bool) -> None:
    def end() -> None:
        run = kubeflow.store.all("runs")[-1]["run_id"]
        kubeflow.set_run(run, "SUCCEEDED", export="SUCCEEDED")

    kubeflow.faults["GET runs/[^/]+"] = [end] * ASKED_ENDS
    with contextlib.ExitStack() as stack:
        walk = Walk(folder, kubeflow, stack)
        for command in COMMANDS:
            rule = rule_of(command)
            if command.page == page and rule.how in ways and (extra or not rule.extra):
                walk.execute(command, rule.how)


WALKED = {"run", "serve", "post", "assign", "make"}
PAGES_WITH_LONG = sorted({one.page for one in COMMANDS if rule_of(one).extra})


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted({one.page for one in COMMANDS}))
def test_a_page(page: str, shared: Path, kubeflow: Server, tmp_path: Path) -> None:
    if page != "README.md":
        copy_seed(shared, tmp_path)
    folder = shared if page == "README.md" else tmp_path
    walk_page(page, folder, kubeflow, WALKED, extra=False)


@pytest.mark.extra
@pytest.mark.parametrize("page", PAGES_WITH_LONG)
def test_a_page_with_its_long_commands(
    page: str, shared: Path, kubeflow: Server, corpus: Path, tmp_path: Path
) -> None:
    if page == "README.md":
        shutil.copytree(corpus, tmp_path / "texts")
    else:
        copy_seed(shared, tmp_path)
    walk_page(page, tmp_path, kubeflow, WALKED | {"first"}, extra=True)


@pytest.mark.parametrize("page", sorted({one.page for one in COMMANDS}))
def test_commands_are_read_by_their_programs(page: str) -> None:
    """Also those that nothing here runs."""
    variables: dict[str, str] = {}
    for command in (one for one in COMMANDS if one.page == page):
        if rule_of(command).how == "assign":
            name, _, value = shlex.split(command.text, comments=True)[-1].partition("=")
            variables[name] = value
        parse(command, variables)


def test_every_rule_is_used_and_says_why() -> None:
    used = {rule_of(command) for command in COMMANDS}
    assert [rule for rule in RULES if rule not in used] == []
    unexplained = [
        rule for rule in RULES if not rule.why and (rule.extra or rule.how in ("parse", "syntax"))
    ]
    assert unexplained == []


@pytest.mark.slow
def test_python_blocks(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorflow as tf

    monkeypatch.chdir(shared)
    data = tf.data.TFRecordDataset(str(next(shared.glob("records/train-*.tfrecord"))))
    given = {
        "docs/data-contract.md": {"tf": tf, "serialized": list(data.take(3).as_numpy_iterator())}
    }
    for block in all_blocks():
        if block.language == "python":
            names: dict[str, Any] = dict(given.get(block.page, {}))
            exec(compile(block.text, f"{block.page}:{block.line}", "exec"), names)
