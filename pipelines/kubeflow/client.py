"""Connects to Kubeflow Pipelines, authenticates, and reports failures in one line.

Tokens and cookies are read from files or the environment and passed to the SDK's client. They never
appear in messages: errors of the SDK contain headers and bodies, so none leaves this module.
"""

from __future__ import annotations

import json
import os
import re
import ssl
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import kfp
import kfp_server_api as api  # type: ignore[import-untyped]
import urllib3

from model.errors import CharloomError, InputError
from pipelines.kubeflow import credentials

UI_VARIABLE = "KF_PIPELINES_UI_ENDPOINT"  # defined by the SDK
POD_NAMESPACE_FILE = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"
OLDEST = (2, 17)
"""Our pipeline needs dsl.TaskConfig (2.15) and the scheduled time of a run (2.17)."""

CONNECT_SECONDS, READ_SECONDS = 10, 60
RETRY_SECONDS = 30.0
"""How long to repeat an unanswered request, if it may be repeated."""

CONNECT_RETRY_SECONDS = 3.0
"""The same for the first request, so that a wrong address is reported soon."""

_PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)
_BUSY = (429, 502, 503, 504)


class RefusedError(InputError):
    """Kubeflow Pipelines rejected a request: its content or its sender."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


class UnavailableError(CharloomError):
    """Kubeflow Pipelines did not answer, or failed; it may work later."""


class _Client(kfp.Client):
    """The SDK's client without its own retries, logging and writes to ~."""

    def _load_config(self, *arguments: Any, **named: Any) -> Any:
        config = super()._load_config(*arguments, **named)
        config.retries = False  # we retry only what may be repeated; no redirect to a login page
        return config

    def get_kfp_healthz(self, sleep_duration: int = 5) -> Any:
        """Does nothing: the constructor would try five times, printing tracebacks."""
        return api.V2beta1GetHealthzResponse(multi_user=False)


class Kubeflow:
    """Kubeflow Pipelines at a host, for one user in one namespace."""

    def __init__(self, client: Any, *, host: str, namespace: str | None) -> None:
        """Takes a client made by `connect`.

        Args:
          client: the SDK's client.
          host: for messages.
          namespace: None: the host has only one.
        """
        self.client, self.host, self.namespace = client, host, namespace
        self.rest = client.healthzs.healthz_service_get_healthz.__self__.api_client
        self._ui = os.environ.get(UI_VARIABLE, "").rstrip("/") or host

    def link(self, *parts: str) -> str:
        """Returns the URL of a UI page, from the parts of its path."""
        return "/".join([self._ui, "#", *parts])

    def call(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        repeat: bool = True,
        retry_seconds: float | None = None,
        read_seconds: int = READ_SECONDS,
        **named: Any,
    ) -> Any:
        """Calls a method of the SDK's generated API.

        Args:
          function: the method.
          *arguments: its arguments.
          repeat: whether to send a request again that may have arrived.
          retry_seconds: how long to retry; default: RETRY_SECONDS.
          read_seconds: how long to wait for one answer.
          **named: its keyword arguments.

        Raises:
          RefusedError: the request was rejected.
          UnavailableError: there was no answer, or a server failure.
        """
        end = time.monotonic() + (RETRY_SECONDS if retry_seconds is None else retry_seconds)
        for attempt in range(10_000):
            try:
                answer = function(
                    *arguments, _request_timeout=(CONNECT_SECONDS, read_seconds), **named
                )
                self._check_answer()
                return answer
            except CharloomError:
                raise
            except Exception as error:
                fault, again = self._explain(error)
            pause = _PAUSES[min(attempt, len(_PAUSES) - 1)]
            if not (again == "always" or (again == "if repeatable" and repeat)):
                raise fault
            if time.monotonic() + pause > end:
                raise fault
            time.sleep(pause)
        raise AssertionError("unreachable")

    def pages(self, function: Callable[..., Any], field: str, **named: Any) -> Iterator[Any]:
        """Yields all items of a paginated list."""
        token = ""
        while True:
            answer = self.call(function, page_token=token, page_size=100, **named)
            yield from getattr(answer, field) or []
            token = answer.next_page_token or ""
            if not token:
                return

    def _check_answer(self) -> None:
        """Raises RefusedError for a browser page, which the SDK takes for an empty answer."""
        answer = self.rest.last_response
        kind = str(answer.getheader("content-type") or "")
        text = answer.data if isinstance(answer.data, str) else ""
        if "html" in kind or text.lstrip()[:1] == "<":
            raise self._login_page(200)
        if text.strip() and text.lstrip()[:1] not in "{[":
            raise RefusedError(
                f"{self.host} answers, but is not Kubeflow Pipelines; {_HOST_ADVICE}",
                status=200,
            )

    def _login_page(self, status: int) -> RefusedError:
        return RefusedError(
            f"{self.host} answers with a login page; log in with a browser and pass its cookies "
            f"with --cookie-file, or a token with --token-file; if you are logged in, {_HOST_ADVICE}",
            status=status,
        )

    def _explain(self, error: Exception) -> tuple[CharloomError, str]:
        """Returns the error for the user, and when to retry: never, always, or if repeatable."""
        api_error = _api_exception(error)
        if api_error is not None and api_error.status:
            return self._explain_status(api_error)
        text = " ".join(f"{error} {getattr(api_error, 'reason', '')}".split())
        if isinstance(error, urllib3.exceptions.SSLError) or (
            api_error is not None and "SSLError" in text
        ):
            why = _tls_reason(text)
            return UnavailableError(
                f"the TLS certificate of {self.host} is not valid ({why}); pass its CA with "
                "--ca-cert, or use --insecure if you trust the network"
            ), "never"
        if isinstance(error, urllib3.exceptions.NameResolutionError):
            return UnavailableError(
                f"the host name in {self.host} does not resolve; check --host, the network and the VPN"
            ), "always"
        if isinstance(
            error, (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError)
        ):
            return UnavailableError(
                f"nothing listens at {self.host}; check --host, the network, or the port-forward"
            ), "always"
        if isinstance(error, (urllib3.exceptions.HTTPError, OSError)):
            kind = "no answer in time" if "imed out" in text else "the connection broke"
            return UnavailableError(
                f"{kind}: {self.host}; run the same command again"
            ), "if repeatable"
        return UnavailableError(
            f"{self.host}: invalid answer ({type(error).__name__}); {_HOST_ADVICE}"
        ), "never"

    def _explain_status(self, error: Any) -> tuple[CharloomError, str]:
        """The same for an error status."""
        status, message = int(error.status), _server_message(error.body)
        if 300 <= status < 400:
            return self._login_page(status), "never"
        if status == 401:
            return RefusedError(
                f"{self.host} rejects the credentials (401); pass a token with --token-file or "
                f"${credentials.TOKEN_VARIABLE}, or cookies with --cookie-file; they may have expired",
                status=status,
            ), "never"
        if status == 403:
            where = f" in namespace {self.namespace}" if self.namespace else ""
            return RefusedError(
                f"{self.host} denies access{where} (403{message}); check --namespace, or ask its "
                "administrator for the role kubeflow-edit",
                status=status,
            ), "never"
        if status in _BUSY:
            again = "always" if status == 429 else "if repeatable"
            return UnavailableError(
                f"{self.host} is busy or starting ({status}{message}); run the same command again"
            ), again
        if status >= 500:
            return UnavailableError(
                f"Kubeflow Pipelines failed ({status}{message}); see the log of its ml-pipeline "
                "deployment"
            ), "never"
        return RefusedError(
            f"{self.host} rejects the request ({status}{message})", status=status
        ), "never"


_HOST_ADVICE = (
    "check --host: in a full Kubeflow it ends in /pipeline, and it is the address of the API, "
    "not of a page"
)


def _api_exception(error: BaseException) -> Any:
    """Returns the SDK's exception, even if the SDK failed while handling it."""
    if isinstance(error, api.ApiException):
        return error
    context = error.__context__
    return context if isinstance(context, api.ApiException) else None


def _tls_reason(text: str) -> str:
    found = re.search(r"certificate verify failed: ([^(\n\]]+)", text)
    return found[1].strip() if found else "the handshake failed"


def _server_message(body: Any) -> str:
    """Returns the server's message, shortened, after a colon."""
    if isinstance(body, bytes):
        body = body.decode("utf-8", "replace")
    try:
        content = json.loads(body or "")
    except ValueError:
        return ""
    if not isinstance(content, dict):
        return ""
    text = next(
        (content[key] for key in ("message", "error", "error_message") if content.get(key)), ""
    )
    line = " ".join(str(text).split())
    return f": {line[:300]}" if line else ""


def connect(
    host: str = "",
    *,
    namespace: str = "",
    token_file: str = "",
    cookie_file: str = "",
    ca_cert: str = "",
    insecure: bool = False,
) -> Kubeflow:
    """Finds Kubeflow Pipelines and checks that it can run our pipeline.

    Raises:
      InputError: there is no host, or an argument is wrong.
      UnavailableError: it can't be reached.
    """
    host = credentials.find_host(host)
    token, cookies, hook = credentials.find_credentials(token_file, cookie_file)
    if ca_cert:
        _check_certificates(ca_cert)
    if insecure:
        warnings.filterwarnings("ignore", category=urllib3.exceptions.InsecureRequestWarning)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it always issues a FutureWarning
        try:
            client = _Client(
                host=host,
                existing_token=token,
                cookies=cookies,
                credentials=hook,
                ssl_ca_cert=ca_cert or None,
                verify_ssl=False if insecure else None,
            )
        except (ValueError, OSError):
            raise InputError(
                "the SDK can't create a client; its settings in ~/.config/kfp/context.json are damaged"
            ) from None
    kubeflow = Kubeflow(client, host=host, namespace=None)
    kubeflow.namespace = _choose_namespace(namespace, client, _check_health(kubeflow))
    return kubeflow


def _check_certificates(path: str) -> None:
    if not os.path.isfile(path):
        raise InputError(f"--ca-cert {path} is not a file")
    try:
        ssl.create_default_context(cafile=path)
    except OSError:  # ssl.SSLError is one
        raise InputError(f"--ca-cert {path} contains no PEM certificate") from None


def _check_health(kubeflow: Kubeflow) -> bool:
    """Returns whether the host serves several users.

    Raises:
      InputError: it has no known API, or is too old; not every host reports its version.
      UnavailableError: it is not ready.
    """
    try:
        # Not with the SDK's method, whose model drops the version.
        health = kubeflow.call(
            kubeflow.rest.call_api,
            "/apis/v2beta1/healthz",
            "GET",
            response_type="object",
            auth_settings=["Bearer"],
            _return_http_data_only=True,
            retry_seconds=CONNECT_RETRY_SECONDS,
        )
    except RefusedError as error:
        if error.status != 404:
            raise
        raise InputError(
            f"{kubeflow.host} does not have the v2 API of Kubeflow Pipelines; {_HOST_ADVICE}; Kubeflow "
            "Pipelines before 2.0 can't run this pipeline"
        ) from None
    if not isinstance(health, dict):
        health = {}
    if health.get("apiServerReady") is False:  # the UI answers for an unreachable API server
        raise UnavailableError(
            f"the UI at {kubeflow.host} answers, but its API server is not ready; "
            "run the same command again"
        )
    tag = str(health.get("tag_name") or health.get("apiServerTagName") or "")
    found = re.fullmatch(r"v?(\d+)\.(\d+)(?:\.\d+)?(?:[-+].*)?", tag)
    if found and (int(found[1]), int(found[2])) < OLDEST:
        raise InputError(
            f"{kubeflow.host} runs Kubeflow Pipelines {tag}; this pipeline needs "
            f"{OLDEST[0]}.{OLDEST[1]} or newer"
        )
    return bool(health.get("multi_user"))


def _choose_namespace(namespace: str, client: Any, several: bool) -> str | None:
    if not several:
        return None
    chosen = namespace or client.get_user_namespace()
    if not chosen and os.path.exists(POD_NAMESPACE_FILE):
        with open(POD_NAMESPACE_FILE, encoding="utf-8") as file:
            chosen = file.read().strip()
    if not chosen:
        raise InputError("this Kubeflow Pipelines serves several users; pass your --namespace")
    return str(chosen)
