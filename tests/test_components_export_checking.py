"""The check in a fresh process, and what tools of TensorFlow see of a version."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from components.export import probe
from components.export.checking import Budget, check_in_fresh_process
from components.export.manifest import verify
from model.errors import CharloomError, InputError

pytestmark = pytest.mark.slow
FAILED = "the exported model failed its check in a fresh process: "
NOTHING = "; nothing was published"


@pytest.fixture
def version(tiny_version: str, tmp_path: Path) -> Path:
    """A version that may be changed."""
    folder = tmp_path / "1"
    shutil.copytree(tiny_version, folder)
    return folder


def refusal(version: Path, budget: Budget | None = None) -> str:
    with pytest.raises(CharloomError) as caught:
        check_in_fresh_process(str(version), budget or Budget())
    message = str(caught.value)
    assert message.startswith(FAILED)
    assert message.endswith(NOTHING)
    assert "\n" not in message
    return message.removeprefix(FAILED).removesuffix(NOTHING)


@pytest.fixture(scope="module")
def checked(tiny_version: str) -> dict[str, float]:
    """What the check of a good version found."""
    return check_in_fresh_process(tiny_version, Budget())


def test_a_good_version(tiny_version: str, checked: dict[str, float]) -> None:
    requests = json.loads(Path(tiny_version, "requests.json").read_text())["requests"]
    assert checked["requests"] == len(requests) >= 4
    assert {one["signature"] for one in requests} >= {"score", "next_word", "embed"}
    assert 0 < checked["latency_ms"] < 2_000
    assert 100 < checked["memory_mb"] < 8_192
    assert verify(tiny_version) == []  # the check left nothing behind


def change_answer(version: Path, signature: str, output: str, change: Any) -> int:
    """Changes what was recorded of the first request to a signature; returns its number."""
    path = version / "requests.json"
    content = json.loads(path.read_text())
    number = [one["signature"] for one in content["requests"]].index(signature)
    outputs = content["requests"][number]["outputs"]
    outputs[output] = change(outputs[output])
    path.write_text(json.dumps(content))
    return number


def test_another_answer_is_refused(version: Path) -> None:
    number = change_answer(version, "score", "tokens", lambda x: [["other", *x[0][1:]], *x[1:]])
    assert refusal(version) == f"request {number} (score): tokens differs from the recorded value"


@pytest.fixture(scope="module")
def loaded(tiny_version: str) -> Any:
    return tf.saved_model.load(tiny_version)


@pytest.mark.parametrize(
    ("signature", "output", "change"),
    [
        ("score", "log_likelihood", lambda x: [x[0] + 0.1, *x[1:]]),
        ("next_word", "probabilities", lambda x: x[:-1]),
        ("embed", "embeddings", lambda x: [[[[float("nan")] * len(x[0][0][0])]]]),
    ],
)
def test_other_answers(
    version: Path,
    loaded: Any,
    monkeypatch: pytest.MonkeyPatch,
    signature: str,
    output: str,
    change: Any,
) -> None:
    """In this process, with a model that is loaded once."""
    number = change_answer(version, signature, output, change)
    monkeypatch.setattr(tf.saved_model, "load", lambda folder: loaded)
    assert probe.probe(str(version), str(version / "requests.json")) == {
        "problem": f"request {number} ({signature}): {output} differs from the recorded value"
    }


def test_a_budget_that_is_too_small(
    version: Path, checked: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process is not asked again; it says what it said of the good version."""
    done = subprocess.CompletedProcess("", 0, stdout=json.dumps(checked).encode())
    monkeypatch.setattr(subprocess, "run", lambda *unused, **also_unused: done)
    check_in_fresh_process(str(version), Budget())
    assert " ms, but 0.0 are allowed (--max-latency-ms)" in refusal(version, Budget(latency_ms=0))
    assert " MB, but 10.0 are allowed (--max-memory-mb)" in refusal(version, Budget(memory_mb=10))


def test_a_budget_that_is_none() -> None:
    with pytest.raises(InputError, match=r"--max-latency-ms is -1"):
        Budget(latency_ms=-1)


def test_damaged_weights(version: Path) -> None:
    (version / "variables" / "variables.index").write_bytes(b"")
    assert refusal(version).startswith("it can't be loaded and queried (")


def test_our_package_is_not_to_be_had(tmp_path: Path) -> None:
    """So a model that needs it can't pass."""
    code = (
        f"import runpy, sys; sys.argv = ['probe', 'x', 'y']; sys.path.append({str(tmp_path)!r})\n"
        f"runpy.run_path({probe.__file__!r}, run_name='__main__')\n"
        "for name in ('model.config', 'components', 'pipelines.cli.main'):\n"
        "    try: __import__(name)\n"
        "    except ImportError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[1:] == [
        "model is one of our packages",
        "components is one of our packages",
        "pipelines is one of our packages",
    ]


def test_signatures_as_saved_model_cli_shows_them(tiny_version: str) -> None:
    """All of them, with their inputs and outputs: saved_model_cli takes as long for one."""
    cli = Path(sys.executable).parent / "saved_model_cli"
    done = subprocess.run(
        [str(cli), "show", "--dir", tiny_version, "--all"],
        capture_output=True,
        text=True,
        check=True,
    )
    for name in ("serving_default", "score", "next_word", "embed"):
        assert f"signature_def['{name}']:" in done.stdout
    score = done.stdout.partition("signature_def['score']:")[2].partition("signature_def[")[0]
    for text in ("inputs['texts']", "outputs['log_likelihood']", "outputs['tokens']", "DT_STRING"):
        assert text in score
