"""Runs Beam's workers in our pool: an environment, and how Beam's runner starts a worker in it.

Modelled on Beam's `SubprocessSDKEnvironment`, whose workers are started by a command.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from apache_beam.portability.api import endpoints_pb2
from apache_beam.runners.portability.fn_api_runner import worker_handlers
from apache_beam.runners.portability.fn_api_runner.worker_handlers import (
    GrpcWorkerHandler,
    WorkerHandler,
)
from apache_beam.transforms.environments import Environment, python_sdk_capabilities
from google.protobuf import json_format, text_format

from components.preprocess.engine.worker_pool import WorkerPool

_URN = "charloom:env:worker_pool:v1"


_GRPC = worker_handlers.grpc


class _LoopbackGrpc:
    """The module `grpc`, whose servers listen on loopback only.

    Beam's local runner names all interfaces in its four servers, which do what any caller asks.
    """

    def __getattr__(self, name: str) -> Any:
        return getattr(_GRPC, name)

    def server(self, *args: Any, **options: Any) -> Any:
        """Returns a server for `add_insecure_port("[::]:PORT")`."""
        server = _GRPC.server(*args, **options)
        listen = server.add_insecure_port
        server.add_insecure_port = lambda address: listen(f"localhost:{address.rpartition(':')[2]}")
        return server


worker_handlers.grpc = _LoopbackGrpc()


@Environment.register_urn(_URN, bytes)
class PoolEnvironment(Environment):
    """Selects workers from `WorkerPool.shared()`, and the file that receives their stderr."""

    def __init__(self, log_path: str, *options: Any) -> None:
        """Creates the environment; `options` are those of all Beam environments."""
        super().__init__(*(options or (python_sdk_capabilities(), ())))
        self._log_path = log_path

    def to_runner_api_parameter(self, context: Any) -> tuple[str, bytes]:
        """Encodes the environment for Beam."""
        return _URN, self._log_path.encode()

    @staticmethod
    def from_runner_api_parameter(
        payload: bytes,
        capabilities: Iterable[str],
        artifacts: Iterable[Any],
        resource_hints: Mapping[str, bytes],
        context: Any,
    ) -> PoolEnvironment:
        """Decodes the environment."""
        return PoolEnvironment(payload.decode(), capabilities, artifacts, resource_hints)


@WorkerHandler.register_environment(_URN, bytes)
class _PoolWorkerHandler(GrpcWorkerHandler):
    def __init__(
        self,
        log_path: bytes,
        state: Any,
        provision_info: Any,
        grpc_server: Any,
    ) -> None:
        super().__init__(state, provision_info, grpc_server)
        self._log_path = log_path.decode()

    def start_worker(self) -> None:
        """Starts a worker, which connects by itself."""
        control = endpoints_pb2.ApiServiceDescriptor(url=self.control_address)
        logs = self.logging_api_service_descriptor()
        options = self.provision_info.provision_info.pipeline_options
        environment = {
            "CONTROL_API_SERVICE_DESCRIPTOR": text_format.MessageToString(control),
            "LOGGING_API_SERVICE_DESCRIPTOR": text_format.MessageToString(logs),
            "PIPELINE_OPTIONS": json_format.MessageToJson(options),
            "WORKER_ID": self.worker_id,
        }
        WorkerPool.shared().start_worker(environment, self._log_path)

    def stop_worker(self) -> None:
        """Does nothing: a worker ends with its channel."""
