"""`charloom tensorboard` as a person uses it; what it shows is in the trainer's own test."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from model.errors import CharloomError, InputError
from pipelines.cli.main import main
from pipelines.cli.tensorboard import find_logdir, serve


def test_one_workdir(tmp_path: Path) -> None:
    (tmp_path / "one" / "tensorboard").mkdir(parents=True)
    assert find_logdir(str(tmp_path / "one")) == str(tmp_path / "one" / "tensorboard")


@pytest.mark.parametrize("below", ["one", "runs/one", "a/b/c/one"])
def test_a_folder_of_several(tmp_path: Path, below: str) -> None:
    (tmp_path / below / "tensorboard").mkdir(parents=True)
    assert find_logdir(f"{tmp_path}/") == f"{tmp_path}/"


def test_a_wrong_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"/none is not a folder; pass the --workdir"):
        find_logdir(str(tmp_path / "none"))
    (tmp_path / "a" / "b" / "c" / "d" / "e" / "tensorboard").mkdir(parents=True)
    with pytest.raises(InputError, match="contains no training"):  # too far below
        find_logdir(str(tmp_path))


def test_a_port_in_use(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(CharloomError, match=f"^port {port} of localhost is in use; choose"):
            serve(str(tmp_path), host="localhost", port=port)


def test_no_such_place(tmp_path: Path) -> None:
    for port in (-1, 65536):
        with pytest.raises(InputError, match=f"^--port is {port}; it must be between"):
            serve(str(tmp_path), host="localhost", port=port)
    with pytest.raises(
        InputError, match=r"^--host is 'no\.such\.host\.invalid', which is not a known"
    ):
        serve(str(tmp_path), host="no.such.host.invalid", port=0)


@pytest.mark.parametrize("text", ["10", "110:100", ""])
def test_a_wrong_profile_is_told_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    places = ["--records", "none", "--workdir", str(tmp_path / "made")]
    assert main(["train", *places, "--profile", text]) == 2
    assert capsys.readouterr().err == (
        f"charloom: --profile is {text!r}; write the first and the last step, such as "
        "--profile 100:110\n"
    )
    assert not (tmp_path / "made").exists()


@pytest.mark.slow
def test_it_prints_the_address_and_ctrl_c_ends_it(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").mkdir()
    command = [sys.executable, "-m", "pipelines.cli.main", "tensorboard"]
    process = subprocess.Popen(
        [*command, "--workdir", str(tmp_path), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        start, _, address = line.partition(" at ")
        assert start == f"TensorBoard shows {tmp_path / 'tensorboard'}"
        with urllib.request.urlopen(address.split()[0].replace("localhost", "127.0.0.1")) as page:
            assert b"<title>TensorBoard</title>" in page.read()
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=300)
    finally:
        process.kill()
    assert (process.returncode, output) == (0, "TensorBoard stopped\n")
    assert errors == ""
