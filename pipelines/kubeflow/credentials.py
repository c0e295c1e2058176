"""Finds the address of Kubeflow Pipelines and credentials, from flags and environment.

Nothing here puts a token or a cookie into a message.
"""

from __future__ import annotations

import os
import re
import urllib.parse
from typing import Any

from kfp import client as kfp_client

from model.errors import InputError

HOST_VARIABLE = "KF_PIPELINES_ENDPOINT"  # defined by the SDK
TOKEN_VARIABLE = "CHARLOOM_KFP_TOKEN"
COOKIE_VARIABLE = "CHARLOOM_KFP_COOKIE"

CLUSTER_HOST = "http://ml-pipeline.kubeflow.svc.cluster.local:8888"


class TokenFile(kfp_client.TokenCredentialsBase):
    """A bearer token in a file that is renewed externally; read for each request."""

    def __init__(self, path: str) -> None:
        self._path = path

    def refresh_api_key_hook(self, config: Any) -> None:
        """Puts the current token into the client's configuration; called by the SDK."""
        config.api_key["authorization"] = _read_secret(self._path, "token")


def find_host(host: str) -> str:
    """Returns the address of the API, without additions copied from a browser.

    Raises:
      InputError: it is missing or invalid.
    """
    host = host or os.environ.get(HOST_VARIABLE, "") or _host_in_cluster()
    if not host:
        raise InputError(
            f"no host given; pass --host, or set ${HOST_VARIABLE}, such as http://localhost:8080 after "
            "kubectl -n kubeflow port-forward service/ml-pipeline-ui 8080:80"
        )
    try:
        parts = urllib.parse.urlsplit(host)
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        known = False
        parts = urllib.parse.urlsplit("")
    if not known:
        hint = " (user and password are not shown)" if "@" in host else ""
        raise InputError(
            f"--host {host.rpartition('@')[2]!r} is not an address{hint}; write it as "
            "https://kubeflow.example.com/pipeline"
        )
    if "@" in parts.netloc:
        raise InputError(
            "--host contains a user or a password; pass a token with --token-file, or cookies with "
            "--cookie-file"
        )
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), "", ""))


def _host_in_cluster() -> str:
    return CLUSTER_HOST if os.environ.get("KUBERNETES_SERVICE_HOST") else ""


def find_credentials(token_file: str, cookie_file: str) -> tuple[str | None, str | None, Any]:
    """Returns the token, the cookies, or the SDK's credentials; None: not given.

    Raises:
      InputError: several are given, or one is invalid.
    """
    if token_file and cookie_file:
        raise InputError("--token-file and --cookie-file exclude each other; use one of them")
    if token_file:
        _read_secret(token_file, "token", flag="--token-file")  # reports errors early
        return None, None, TokenFile(token_file)
    if cookie_file:
        return None, _read_secret(cookie_file, "cookie", flag="--cookie-file"), None
    token = os.environ.get(TOKEN_VARIABLE, "").strip()
    cookie = os.environ.get(COOKIE_VARIABLE, "").strip()
    if token and cookie:
        raise InputError(f"${TOKEN_VARIABLE} and ${COOKIE_VARIABLE} are both set; unset one")
    if token:
        return _check_secret(token, "token", f"${TOKEN_VARIABLE}"), None, None
    if cookie:
        return None, _check_secret(cookie, "cookie", f"${COOKIE_VARIABLE}"), None
    path = os.environ.get(
        kfp_client.KF_PIPELINES_SA_TOKEN_ENV, kfp_client.KF_PIPELINES_SA_TOKEN_PATH
    )
    return None, None, TokenFile(path) if os.path.exists(path) else None


def _read_secret(path: str, kind: str, *, flag: str = "the token file") -> str:
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(65_536).strip()
    except OSError as error:
        raise InputError(f"{flag} {path} can't be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise InputError(f"{flag} {path} is not text") from None
    return _check_secret(text, kind, f"{flag} {path}")


def _check_secret(text: str, kind: str, source: str) -> str:
    """Returns a token or cookies valid in a header; messages do not reveal them."""
    if not text:
        raise InputError(f"{source} is empty; it must contain a {kind}")
    if not text.isascii() or not text.isprintable():
        raise InputError(f"{source} must contain one line with a {kind}, and nothing else")
    if kind == "token" and " " in text:
        raise InputError(f"{source} must contain the bare token, without 'Bearer'")
    if kind == "cookie" and not re.match(r"[\w.-]+=", text):
        raise InputError(f"{source} must contain cookies as NAME=VALUE, joined by '; '")
    return text
