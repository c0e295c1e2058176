"""The check in a fresh process, and what tools of TensorFlow see of a version."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

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


def test_a_good_version(tiny_version: str) -> None:
    result = check_in_fresh_process(tiny_version, Budget())
    requests = json.loads(Path(tiny_version, "requests.json").read_text())["requests"]
    assert result["requests"] == len(requests) >= 4
    assert {one["signature"] for one in requests} >= {"score", "next_word", "embed"}
    assert 0 < result["latency_ms"] < 2_000
    assert 100 < result["memory_mb"] < 8_192
    assert verify(tiny_version) == []  # the check left nothing behind


@pytest.mark.parametrize(
    ("signature", "output", "change"),
    [
        ("score", "log_likelihood", lambda x: [x[0] + 0.1, *x[1:]]),
        ("score", "tokens", lambda x: [["other", *x[0][1:]], *x[1:]]),
        ("next_word", "probabilities", lambda x: x[:-1]),
        ("embed", "embeddings", lambda x: [[[[float("nan")] * len(x[0][0][0])]]]),
    ],
)
def test_other_answers(version: Path, signature: str, output: str, change: Any) -> None:
    path = version / "requests.json"
    content = json.loads(path.read_text())
    number = [one["signature"] for one in content["requests"]].index(signature)
    outputs = content["requests"][number]["outputs"]
    outputs[output] = change(outputs[output])
    path.write_text(json.dumps(content))
    assert refusal(version) == (
        f"request {number} ({signature}): {output} differs from the recorded value"
    )


def test_a_budget_that_is_too_small(version: Path) -> None:
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
    from components.export import probe

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
    cli = Path(sys.executable).parent / "saved_model_cli"
    done = subprocess.run(
        [str(cli), "show", "--dir", tiny_version, "--tag_set", "serve", "--signature_def", "score"],
        capture_output=True,
        text=True,
        check=True,
    )
    for text in ("inputs['texts']", "outputs['log_likelihood']", "outputs['tokens']", "DT_STRING"):
        assert text in done.stdout
    done = subprocess.run(
        [str(cli), "show", "--dir", tiny_version, "--tag_set", "serve"],
        capture_output=True,
        text=True,
        check=True,
    )
    for name in ("serving_default", "score", "next_word", "embed"):
        assert f'"{name}"' in done.stdout
