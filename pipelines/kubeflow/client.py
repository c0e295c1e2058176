"""Finds Kubeflow Pipelines, shows who we are, and says in one line what went wrong there.

Tokens and cookies are read from files or the environment, go to the SDK's client, and are in no
message: errors of the SDK carry headers and bodies, so none of them gets out of here.
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

UI_VARIABLE = "KF_PIPELINES_UI_ENDPOINT"  # the SDK's own
POD_NAMESPACE_FILE = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"
OLDEST = (2, 17)
"""Our pipeline asks for dsl.TaskConfig (2.15) and the scheduled time of a run (2.17)."""

CONNECT_SECONDS, READ_SECONDS = 10, 60
RETRY_SECONDS = 30.0
"""How long a request is repeated that got no answer, if it may be repeated."""

CONNECT_RETRY_SECONDS = 3.0
"""The same for the first request, so that a wrong address is told soon."""

_PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)
_BUSY = (429, 502, 503, 504)


class RefusedError(InputError):
    """Kubeflow Pipelines answered that it won't: what it was asked for, or by whom."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


class UnavailableError(CharloomError):
    """Kubeflow Pipelines gave no answer, or failed itself; asked again later it may work."""


class _Client(kfp.Client):
    """The SDK's client without what it does by itself: repeating, logging, writing to ~."""

    def _load_config(self, *arguments: Any, **named: Any) -> Any:
        config = super()._load_config(*arguments, **named)
        config.retries = False  # we repeat, and know what may be; no redirect to a login page
        return config

    def get_kfp_healthz(self, sleep_duration: int = 5) -> Any:
        """Asks nothing: the constructor would ask five times, printing tracebacks."""
        return api.V2beta1GetHealthzResponse(multi_user=False)


class Kubeflow:
    """Kubeflow Pipelines at a host, asked as one user in one namespace."""

    def __init__(self, client: Any, *, host: str, namespace: str | None) -> None:
        """Takes a client that `connect` made.

        Args:
          client: the SDK's.
          host: for messages.
          namespace: None: the host has but one.
        """
        self.client, self.host, self.namespace = client, host, namespace
        self.rest = client.healthzs.healthz_service_get_healthz.__self__.api_client
        self._ui = os.environ.get(UI_VARIABLE, "").rstrip("/") or host

    def link(self, *parts: str) -> str:
        """Returns the address of a page of the UI; the parts are those of its path."""
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
          repeat: whether a request that may have arrived can be sent again.
          retry_seconds: how long to go on trying, RETRY_SECONDS by default.
          read_seconds: how long to wait for one answer.
          **named: its further arguments.

        Raises:
          RefusedError: it said no.
          UnavailableError: there was no answer, or a failure in place of one.
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
        """Yields all items of a list that comes in pages."""
        token = ""
        while True:
            answer = self.call(function, page_token=token, page_size=100, **named)
            yield from getattr(answer, field) or []
            token = answer.next_page_token or ""
            if not token:
                return

    def _check_answer(self) -> None:
        """Raises RefusedError if the answer is a page for a browser, which the SDK takes for empty."""
        answer = self.rest.last_response
        kind = str(answer.getheader("content-type") or "")
        text = answer.data if isinstance(answer.data, str) else ""
        if "html" in kind or text.lstrip()[:1] == "<":
            raise self._login_page(200)
        if text.strip() and text.lstrip()[:1] not in "{[":
            raise RefusedError(
                f"{self.host} answers, but not as Kubeflow Pipelines does; {_HOST_ADVICE}",
                status=200,
            )

    def _login_page(self, status: int) -> RefusedError:
        return RefusedError(
            f"{self.host} answers with a page to log in; log in with a browser and give its cookies "
            f"by --cookie-file, or a token by --token-file; if you are logged in, {_HOST_ADVICE}",
            status=status,
        )

    def _explain(self, error: Exception) -> tuple[CharloomError, str]:
        """Returns what to tell the user, and when to try again: never, always, if repeatable."""
        api_error = _api_exception(error)
        if api_error is not None and api_error.status:
            return self._explain_status(api_error)
        text = " ".join(f"{error} {getattr(api_error, 'reason', '')}".split())
        if isinstance(error, urllib3.exceptions.SSLError) or (
            api_error is not None and "SSLError" in text
        ):
            why = _tls_reason(text)
            return UnavailableError(
                f"the TLS certificate of {self.host} does not pass ({why}); give who signed it by "
                "--ca-cert, or use --insecure where you trust the network"
            ), "never"
        if isinstance(error, urllib3.exceptions.NameResolutionError):
            return UnavailableError(
                f"the name of {self.host} is unknown here; check --host, the network and the VPN"
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
                f"{kind}: {self.host}; give the same command again"
            ), "if repeatable"
        return UnavailableError(
            f"{self.host}: the answer is not understood ({type(error).__name__}); {_HOST_ADVICE}"
        ), "never"

    def _explain_status(self, error: Any) -> tuple[CharloomError, str]:
        """The same for an answer that is no success."""
        status, message = int(error.status), _server_message(error.body)
        if 300 <= status < 400:
            return self._login_page(status), "never"
        if status == 401:
            return RefusedError(
                f"{self.host} does not know you (401); give a token by --token-file or "
                f"${credentials.TOKEN_VARIABLE}, or cookies by --cookie-file; one that worked may be too old",
                status=status,
            ), "never"
        if status == 403:
            where = f" in namespace {self.namespace}" if self.namespace else ""
            return RefusedError(
                f"{self.host} refuses it to you{where} (403{message}); check --namespace, or ask its "
                "administrator for the role kubeflow-edit",
                status=status,
            ), "never"
        if status in _BUSY:
            again = "always" if status == 429 else "if repeatable"
            return UnavailableError(
                f"{self.host} is busy or starting ({status}{message}); give the same command again"
            ), again
        if status >= 500:
            return UnavailableError(
                f"Kubeflow Pipelines failed ({status}{message}); see the log of its ml-pipeline "
                "deployment"
            ), "never"
        return RefusedError(f"{self.host} refuses it ({status}{message})", status=status), "never"


_HOST_ADVICE = (
    "check --host: in a whole Kubeflow it ends in /pipeline, and it is the address of the API, "
    "not of a page in it"
)


def _api_exception(error: BaseException) -> Any:
    """Returns the SDK's exception, which the SDK may have tripped over itself."""
    if isinstance(error, api.ApiException):
        return error
    context = error.__context__
    return context if isinstance(context, api.ApiException) else None


def _tls_reason(text: str) -> str:
    found = re.search(r"certificate verify failed: ([^(\n\]]+)", text)
    return found[1].strip() if found else "the handshake failed"


def _server_message(body: Any) -> str:
    """Returns what the server says for people, shortened, with a colon before it."""
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
    """Finds Kubeflow Pipelines and asks whether it is one that can run our pipeline.

    Raises:
      InputError: there is no host, or what it was given is wrong.
      UnavailableError: it can't be reached.
    """
    host = credentials.find_host(host)
    token, cookies, hook = credentials.find_credentials(token_file, cookie_file)
    if ca_cert:
        _check_certificates(ca_cert)
    if insecure:
        warnings.filterwarnings("ignore", category=urllib3.exceptions.InsecureRequestWarning)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it greets everyone with a FutureWarning
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
                "the SDK can't make a client; its settings in ~/.config/kfp/context.json are damaged"
            ) from None
    kubeflow = Kubeflow(client, host=host, namespace=None)
    kubeflow.namespace = _choose_namespace(namespace, client, _check_health(kubeflow))
    return kubeflow


def _check_certificates(path: str) -> None:
    if not os.path.isfile(path):
        raise InputError(f"--ca-cert {path} is no file")
    try:
        ssl.create_default_context(cafile=path)
    except OSError:  # ssl.SSLError is one
        raise InputError(f"--ca-cert {path} holds no certificate in PEM form") from None


def _check_health(kubeflow: Kubeflow) -> bool:
    """Returns whether the host serves several users.

    Raises:
      InputError: it has no API that we know, or is too old; not all say how old they are.
      UnavailableError: it is not ready.
    """
    try:
        # Not by the SDK's method, whose model drops the version.
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
            f"{kubeflow.host} has no API v2 of Kubeflow Pipelines; {_HOST_ADVICE}; Kubeflow "
            "Pipelines before 2.0 can't run this pipeline"
        ) from None
    if not isinstance(health, dict):
        health = {}
    if health.get("apiServerReady") is False:  # the UI answers for an API server that is away
        raise UnavailableError(
            f"the UI at {kubeflow.host} is there, but its API server is not ready; "
            "give the same command again"
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
        raise InputError("this Kubeflow Pipelines serves several users; give --namespace, yours")
    return str(chosen)
