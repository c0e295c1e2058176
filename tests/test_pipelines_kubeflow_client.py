"""Finding Kubeflow Pipelines, logging in, and what is said when it goes wrong."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from kfp_server import Server, fails, isolate, serve, works

from pipelines.cli.main import main
from pipelines.kubeflow import client, credentials

SECRET = "s3cr3t-token-of-mine"
COOKIE = "authservice_session=c00kie-of-mine"


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    isolate(monkeypatch, tmp_path)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serve(tmp_path) as running:
        yield running


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


def test_no_login(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    works(capsys, "--host", server.host)
    # what a browser has in its address, and a namespace where there are none
    works(capsys, "--host", f"{server.host}/#/runs/details/x", "--namespace", "kubeflow")
    assert [path.split("?")[0] for _, path, _ in server.requests] == 2 * [
        "healthz",
        "recurringruns",
    ]
    assert "namespace" not in server.requests[-1][1]


def test_the_host_of_the_sdk_s_environment(
    server: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", server.host)
    works(capsys)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "no host given; pass --host, or set $KF_PIPELINES_ENDPOINT, such as"),
        (
            ["--host", "kubeflow.example.com"],
            "--host 'kubeflow.example.com' is not an address; write",
        ),
        (["--host", "ftp://x"], "--host 'ftp://x' is not an address; write it as https://"),
        (
            ["--host", "http://x:port"],
            "--host 'http://x:port' is not an address; write it as https://",
        ),
        (["--host", "http://"], "--host 'http://' is not an address; write it as https://"),
        (
            ["--host", "http://h", "--ca-cert", "/no/ca"],
            "--ca-cert /no/ca is not a file",
        ),
        (
            ["--host", "http://h", "--token-file", "/no/token"],
            "--token-file /no/token can't be read (No such file or directory)",
        ),
        (
            ["--host", "http://h", "--token-file", "a", "--cookie-file", "b"],
            "--token-file and --cookie-file exclude each other; use one of them",
        ),
    ],
)
def test_flags_that_can_t_be_right(
    capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    assert fails(capsys, *flags, code=2).startswith(message)


def test_a_password_in_the_address_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    for host in (f"https://me:{SECRET}@host", f"me:{SECRET}@host"):
        line = fails(capsys, "--host", host, code=2)
        assert SECRET not in line
        assert line.startswith("--host ")


@pytest.mark.parametrize(
    ("flag", "text", "message"),
    [
        ("--token-file", "", "is empty; it must contain a token"),
        ("--token-file", f"Bearer {SECRET}", "must contain the bare token, without 'Bearer'"),
        (
            "--token-file",
            f"{SECRET}\n{SECRET}",
            "must contain one line with a token, and nothing else",
        ),
        ("--token-file", f"{SECRET}é", "must contain one line with a token, and nothing else"),
        ("--cookie-file", SECRET, "must contain cookies as NAME=VALUE, joined by '; '"),
        (
            "--cookie-file",
            f"a={SECRET}\r\nb=c",
            "must contain one line with a cookie, and nothing else",
        ),
    ],
)
def test_secrets_that_fit_no_header(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, flag: str, text: str, message: str
) -> None:
    path = tmp_path / "secret"
    path.write_text(text)
    line = fails(capsys, "--host", "http://127.0.0.1:9", flag, str(path), code=2)
    assert line == f"{flag} {path} {message}"


def test_a_token_is_read_anew_for_each_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "token"
    path.write_text(f"{SECRET}\n")
    with serve(tmp_path, token=SECRET) as server:
        works(capsys, "--host", server.host, "--token-file", str(path))
        kubeflow = client.connect(server.host, token_file=str(path))
        server.token = "renewed"
        path.write_text("renewed")
        list_runs = kubeflow.client.recurring_runs.recurring_run_service_list_recurring_runs
        assert kubeflow.call(list_runs).recurring_runs == []
        path.unlink()
        with pytest.raises(client.InputError, match=r"the token file .*token can't be read"):
            kubeflow.call(list_runs)


@pytest.mark.parametrize("variable", [credentials.TOKEN_VARIABLE, "KF_PIPELINES_SA_TOKEN_PATH"])
def test_a_token_of_the_environment(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
) -> None:
    (tmp_path / "token").write_text(SECRET)
    is_path = variable.endswith("PATH")
    monkeypatch.setenv(variable, str(tmp_path / "token") if is_path else SECRET)
    with serve(tmp_path, token=SECRET) as server:
        works(capsys, "--host", server.host)


@pytest.mark.parametrize("login", ["redirect", "page"])
def test_cookies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, login: str
) -> None:
    (tmp_path / "cookie").write_text(f"{COOKIE}; other=1")
    with serve(tmp_path, cookie=COOKIE, login=login) as server:
        works(capsys, "--host", server.host, "--cookie-file", str(tmp_path / "cookie"))
        line = fails(capsys, "--host", server.host, code=2)
        assert line.startswith(
            f"{server.host} answers with a login page; log in with a browser and pass its "
            "cookies with --cookie-file, or a token with --token-file"
        )
        monkeypatch.setenv(credentials.COOKIE_VARIABLE, COOKIE)
        works(capsys, "--host", server.host)
        monkeypatch.setenv(credentials.TOKEN_VARIABLE, SECRET)
        assert fails(capsys, "--host", server.host, code=2) == (
            "$CHARLOOM_KFP_TOKEN and $CHARLOOM_KFP_COOKIE are both set; unset one"
        )


@pytest.mark.parametrize("debug", [[], ["--debug"]])
@pytest.mark.parametrize("fault", [None, 500, 400, "drop", "junk"])
def test_secrets_are_never_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], debug: list[str], fault: str | int | None
) -> None:
    """The server echoes the header that it was sent, and the SDK's exceptions show headers."""
    path = tmp_path / "secret"
    with serve(tmp_path, token="another") as server:
        for flag, text, secret in (
            ("--token-file", SECRET, SECRET),
            ("--cookie-file", COOKIE, COOKIE.partition("=")[2]),
        ):
            path.write_text(text)
            server.faults = {"GET .*": [fault] * 20}
            code = main(["schedule", "list", *debug, "--host", server.host, flag, str(path)])
            out, err = capsys.readouterr()
            assert code in (1, 2)
            assert err.splitlines()[-1].startswith("charloom: ")
            assert secret not in out + err
            assert ("Traceback" in err) == bool(debug)
            sent = [how for how in server.shown if secret in how]
            assert sent, "the secret was sent, so that it could have come back"


def test_the_command_itself_prints_no_secret(tmp_path: Path) -> None:
    with serve(tmp_path, token="another") as server:
        command = [sys.executable, "-m", "pipelines.cli.main", "--debug", "schedule", "list"]
        environment = {**os.environ, credentials.TOKEN_VARIABLE: SECRET}
        result = subprocess.run(
            [*command, "--host", server.host], env=environment, capture_output=True, text=True
        )
    assert result.returncode == 2
    assert "Traceback" in result.stderr
    assert "(403: who is this?)" in result.stderr
    assert SECRET not in result.stdout + result.stderr


@pytest.mark.parametrize(
    ("fault", "code", "message"),
    [
        (
            401,
            2,
            " rejects the credentials (401); pass a token with --token-file or $CHARLOOM_KFP_TOKEN",
        ),
        (403, 2, " denies access (403: a fault of the stand-in); check --namespace, or ask"),
        (
            404,
            2,
            " does not have the v2 API of Kubeflow Pipelines; check --host: in a full Kubeflow it ends",
        ),
        (400, 2, " rejects the request (400: a fault of the stand-in)"),
        (
            503,
            1,
            " is busy or starting (503: a fault of the stand-in); run the same command again",
        ),
        ("drop", 1, "the connection broke: {host}; run the same command again"),
        ("junk", 2, " answers, but is not Kubeflow Pipelines; check --host"),
    ],
)
def test_answers_that_are_none(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    fault: str | int,
    code: int,
    message: str,
) -> None:
    monkeypatch.setattr(client, "_PAUSES", (0.0,))
    monkeypatch.setattr(client, "CONNECT_RETRY_SECONDS", 0.1)
    server.faults = {"GET healthz": [fault] * 100_000}
    line = fails(capsys, "--host", server.host, code=code)
    assert line.startswith(message.format(host=server.host)) or line.startswith(
        server.host + message
    )


def test_a_server_that_fails_is_not_asked_for_ever(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    server.faults = {"GET recurringruns": [500, 500]}
    assert fails(capsys, "--host", server.host, code=1).startswith(
        "Kubeflow Pipelines failed (500: a fault of the stand-in); see the log of its ml-pipeline"
    )
    assert len(server.sent("GET", "recurringruns")) == 1
    server.faults = {"GET recurringruns": [503, 429, "drop"]}
    works(capsys, "--host", server.host)
    assert len(server.sent("GET", "recurringruns")) == 5


def test_nothing_listens(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "CONNECT_RETRY_SECONDS", 0.1)
    host = f"http://127.0.0.1:{free_port()}"
    assert fails(capsys, "--host", host, code=1) == (
        f"nothing listens at {host}; check --host, the network, or the port-forward"
    )
    assert fails(capsys, "--host", "http://no-such-host.invalid", code=1) == (
        "the host name in http://no-such-host.invalid does not resolve; check --host, the network and "
        "the VPN"
    )


def test_several_users(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(tmp_path, multi_user=True) as server:
        assert fails(capsys, "--host", server.host, code=2) == (
            "this Kubeflow Pipelines serves several users; pass your --namespace"
        )
        works(capsys, "--host", server.host, "--namespace", "ann")
        assert "namespace=ann" in server.requests[-1][1]
        (tmp_path / "namespace").write_text("bob\n")  # in a notebook of bob's
        monkeypatch.setattr(client, "POD_NAMESPACE_FILE", str(tmp_path / "namespace"))
        works(capsys, "--host", server.host)
        assert "namespace=bob" in server.requests[-1][1]
        assert not (tmp_path / "no-context.json").exists()


@pytest.mark.parametrize(
    ("tag", "message"),
    [
        ("2.16.1", " runs Kubeflow Pipelines 2.16.1; this pipeline needs 2.17 or newer"),
        ("v1.8.5", " runs Kubeflow Pipelines v1.8.5; this pipeline needs 2.17 or newer"),
    ],
)
def test_versions_that_are_too_old(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], tag: str, message: str
) -> None:
    with serve(tmp_path, tag=tag) as server:
        assert fails(capsys, "--host", server.host, code=2) == server.host + message


@pytest.mark.parametrize("tag", ["2.17.0", "2.17.0-rc.1", "3.0.0", "unknown", "", "sha-2.5"])
def test_versions_that_will_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], tag: str
) -> None:
    with serve(tmp_path, tag=tag) as server:
        works(capsys, "--host", server.host)


def test_the_ui_in_front(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It answers healthz in words of its own, for an API server that is away, too."""
    with serve(tmp_path, multi_user=True) as server:
        health = {"apiServerReady": False, "frontendTagName": "2.17.0"}
        server.api.healthz = lambda *_: health  # type: ignore[method-assign]
        assert fails(capsys, "--host", server.host, code=1) == (
            f"the UI at {server.host} answers, but its API server is not ready; "
            "run the same command again"
        )
        health |= {"apiServerReady": True, "apiServerTagName": "2.17.0", "multi_user": True}
        works(capsys, "--host", server.host, "--namespace", "ann")
        health |= {"apiServerTagName": "2.5.0"}
        assert "runs Kubeflow Pipelines 2.5.0" in fails(capsys, "--host", server.host, code=2)


def test_links_go_to_the_ui(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    assert client.connect(server.host).link("runs", "details", "7") == (
        f"{server.host}/#/runs/details/7"
    )
    monkeypatch.setenv(client.UI_VARIABLE, "https://kubeflow.example.com/pipeline/")
    link = client.connect(server.host).link("runs", "details", "7")
    assert link == "https://kubeflow.example.com/pipeline/#/runs/details/7"


def test_the_host_in_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert credentials.find_host("") == "http://ml-pipeline.kubeflow.svc.cluster.local:8888"
    assert credentials.find_host("http://h") == "http://h"
