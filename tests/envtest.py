"""A real etcd and kube-apiserver for tests; nothing else of a cluster runs.

The two programs are found as controller-runtime's envtest finds them: `KUBEBUILDER_ASSETS`
names their folder. What controllers and kubelets would do, a test does in their place:
envtest_cluster.py.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import kubernetes
import pytest
import urllib3
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

ASSETS_VARIABLE = "KUBEBUILDER_ASSETS"

ADMIN_TOKEN = "admin-token"
"""Of a user in the group system:masters, who may do everything."""

_PR_SET_PDEATHSIG = 1

Answer = TypeVar("Answer")


def assets() -> Path:
    """Returns the folder of the programs; skips the test if there is none."""
    folder = os.environ.get(ASSETS_VARIABLE)
    if not folder:
        pytest.skip(f"{ASSETS_VARIABLE} names no folder with kube-apiserver and etcd")
    missing = [name for name in ("etcd", "kube-apiserver") if not (Path(folder) / name).exists()]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not in {ASSETS_VARIABLE}, {folder}")
    return Path(folder)


def eventually(look: Callable[[], Answer | None], what: str, *, seconds: float = 240) -> Answer:
    """Returns what `look` finds, once it is something."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.05)
    return found


class ControlPlane:
    """etcd and kube-apiserver with RBAC, on free ports of loopback."""

    def __init__(self, folder: Path):
        """Makes keys in an empty folder; `with` starts the programs, and surely ends them."""
        self._programs = assets()
        self._folder = folder
        self._etcd_port, self.port = free_port(), free_port()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        (folder / "accounts.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        (folder / "tokens.csv").write_text(f"{ADMIN_TOKEN},admin,admin,system:masters\n")
        policy = {
            "apiVersion": "audit.k8s.io/v1",
            "kind": "Policy",
            "rules": [{"level": "Metadata"}],
        }
        (folder / "audit.yaml").write_text(yaml.safe_dump(policy))

    def __enter__(self) -> ControlPlane:
        try:
            self._start_etcd()
            self.start_api()
        except BaseException:
            self._end_all()
            raise
        return self

    def __exit__(self, *unused: object) -> None:
        self._end_all()

    @property
    def certificate(self) -> Path:
        """What clients check the server with; it made it itself."""
        return self._folder / "certificates" / "apiserver.crt"

    @property
    def key(self) -> Path:
        """Of the certificate, which is good for any server at 127.0.0.1."""
        return self._folder / "certificates" / "apiserver.key"

    def certificate_base64(self) -> str:
        """The certificate as webhooks are registered with it."""
        return base64.b64encode(self.certificate.read_bytes()).decode()

    def _start_etcd(self) -> None:
        url = f"http://127.0.0.1:{self._etcd_port}"
        arguments = [f"--data-dir={self._folder / 'etcd'}", "--unsafe-no-fsync"]
        arguments += [f"--listen-client-urls={url}", f"--advertise-client-urls={url}"]
        arguments += ["--listen-peer-urls=http://127.0.0.1:0"]
        self._start("etcd", arguments)

    def start_api(self) -> None:
        """Starts the API server, also once more on the same port, and waits until it is ready."""
        keys = str(self._folder / "accounts.key")
        options = {
            "etcd-servers": f"http://127.0.0.1:{self._etcd_port}",
            "bind-address": "127.0.0.1",
            "advertise-address": "127.0.0.1",
            "secure-port": self.port,
            "cert-dir": self.certificate.parent,
            "token-auth-file": self._folder / "tokens.csv",
            "authorization-mode": "RBAC",
            "service-account-issuer": "https://kubernetes.default.svc",
            "service-account-signing-key-file": keys,
            "service-account-key-file": keys,
            "service-cluster-ip-range": "10.0.0.0/24",
            "endpoint-reconciler-type": "none",
            "audit-policy-file": self._folder / "audit.yaml",
            "audit-log-path": self._folder / "audit.log",
        }
        self._start("kube-apiserver", [f"--{name}={value}" for name, value in options.items()])
        eventually(self._ready, "the API server")

    def stop_api(self) -> None:
        """Ends the API server as a crash would; etcd keeps what it knew."""
        self._end("kube-apiserver")

    def _ready(self) -> bool:
        code = self._processes["kube-apiserver"].poll()
        assert code is None, f"kube-apiserver ended with {code}:\n{self._log('kube-apiserver')}"
        if not self.certificate.exists():
            return False
        core = kubernetes.client.CoreV1Api(self.client())
        try:
            core.api_client.call_api(
                "/readyz", "GET", auth_settings=["BearerToken"], response_type="str"
            )
            core.read_namespace("default")
        except (kubernetes.client.ApiException, urllib3.exceptions.HTTPError, OSError):
            return False
        return True

    def client(self, token: str = ADMIN_TOKEN) -> kubernetes.client.ApiClient:
        """Returns a client that shows a token."""
        configuration = kubernetes.client.Configuration()
        configuration.host = f"https://127.0.0.1:{self.port}"
        configuration.ssl_ca_cert = str(self.certificate)
        configuration.api_key = {"authorization": token}
        configuration.api_key_prefix = {"authorization": "Bearer"}
        configuration.retries = False
        return kubernetes.client.ApiClient(configuration)

    def token(
        self, namespace: str, account: str, *, bound_to: Mapping[str, Any] | None = None
    ) -> str:
        """Returns a token of a service account, as a kubelet asks for it.

        Args:
          namespace: of the account.
          account: its name.
          bound_to: reference to an object; the token is refused once that is gone.
        """
        body = {"spec": {"expirationSeconds": 3600}}
        if bound_to:
            body["spec"]["boundObjectRef"] = bound_to
        core = kubernetes.client.CoreV1Api(self.client())
        answer = core.create_namespaced_service_account_token(account, namespace, body)
        return str(answer.status.token)

    def kubeconfig(
        self, path: Path, *, namespace: str, token: Path | str = ADMIN_TOKEN, port: int = 0
    ) -> Path:
        """Writes a kubeconfig.

        Args:
          path: the file.
          namespace: in which its user works.
          token: that of the user, or a file that has it.
          port: where the server is called, in place of its own.
        """
        server = f"https://127.0.0.1:{port or self.port}"
        user = {"tokenFile": str(token)} if isinstance(token, Path) else {"token": token}
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "it",
            "clusters": [
                {
                    "name": "it",
                    "cluster": {"server": server, "certificate-authority": str(self.certificate)},
                }
            ],
            "users": [{"name": "it", "user": user}],
            "contexts": [
                {"name": "it", "context": {"cluster": "it", "user": "it", "namespace": namespace}}
            ],
        }
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        return path

    @property
    def audited(self) -> int:
        """How long the API server's record of requests is."""
        return (self._folder / "audit.log").stat().st_size

    def requests_of(self, namespace: str, account: str, *, after: int) -> set[tuple[str, str]]:
        """Returns verb and resource of all that a service account asked for and was given.

        Args:
          namespace: of the account.
          account: its name.
          after: the value of `audited` from which on it counts.
        """
        user = f"system:serviceaccount:{namespace}:{account}"
        found = set()
        for line in (self._folder / "audit.log").read_bytes()[after:].splitlines():
            event = json.loads(line)
            target = event.get("objectRef", {})
            if event["user"].get("username") != user or not target.get("resource"):
                continue
            if event.get("annotations", {}).get("authorization.k8s.io/decision") == "allow":
                parts = [target["resource"], target.get("subresource", "")]
                found.add((event["verb"], "/".join(filter(None, parts))))
        return found

    # Processes

    def start_program(self, name: str, arguments: list[str]) -> None:
        """Starts one more program of the folder; skips the test where it is missing."""
        if not (self._programs / name).exists():
            pytest.skip(f"{name} is not in {ASSETS_VARIABLE}, {self._programs}")
        self._start(name, arguments)

    def _start(self, name: str, arguments: list[str]) -> None:
        with (self._folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [str(self._programs / name), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=end_with_parent,
            )

    def _end(self, name: str) -> None:
        process = self._processes.pop(name)
        process.kill()
        process.wait()

    def _end_all(self) -> None:
        for name in list(self._processes):
            self._end(name)

    def _log(self, name: str) -> str:
        return (self._folder / f"{name}.log").read_text(errors="replace")[-2000:]


def end_with_parent() -> None:
    """Has the kernel end this process when the tests' process ends, however that ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def free_port() -> int:
    """Returns a port of loopback that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Relay:
    """A way to the API server that can be cut."""

    def __init__(self, target: int):
        """Listens, and connects to a port of this machine for each connection."""
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._open: set[socket.socket] = set()
        self._silent: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._accept, name="relay", daemon=True)
        self._thread.start()

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *unused: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self.cut()

    def cut(self) -> int:
        """Breaks the connections that are there, and returns how many; new ones are made."""
        with self._lock:
            broken, self._open = self._open, set()
        for one in broken:
            with contextlib.suppress(OSError):  # it ended by itself
                one.shutdown(socket.SHUT_RDWR)
        return len(broken) // 2

    def silence(self) -> int:
        """Loses all that the connections that are there send, and returns how many they are."""
        with self._lock:
            self._silent = self._silent | self._open
            return len(self._open) // 2

    def _accept(self) -> None:
        with contextlib.suppress(OSError), self._listener:  # it is shut down in the end
            while True:
                near, _ = self._listener.accept()
                threading.Thread(target=self._connect, args=(near,), daemon=True).start()

    def _connect(self, near: socket.socket) -> None:
        with (
            contextlib.suppress(OSError),
            near,
            socket.create_connection(("127.0.0.1", self._target)) as far,
        ):
            with self._lock:
                self._open |= {near, far}
            back = threading.Thread(target=self._pass_on, args=(far, near), daemon=True)
            back.start()
            self._pass_on(near, far)
            back.join()
            with self._lock:
                self._open -= {near, far}

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        """Sends on what comes, until either end breaks; then both are ended."""
        with contextlib.suppress(OSError):
            while block := source.recv(65536):
                if source not in self._silent:
                    target.sendall(block)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def control_plane(folder: Path) -> Iterator[ControlPlane]:
    """Runs a control plane that knows JobSets."""
    from envtest_cluster import install_jobset

    with ControlPlane(folder) as plane:
        install_jobset(plane)
        yield plane
