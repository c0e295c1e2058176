"""A model version loaded in memory."""

from __future__ import annotations

import json
import logging
import os
import time
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_text  # noqa: F401 (registers ops of exported models)

from components.export.checking import REQUESTS_FILE
from components.export.manifest import MANIFEST_FILE, check_unchanged
from components.export.probe import as_tensors, differs
from components.export.registry import version_digest
from components.serve.messages import TensorInfo
from components.serve.requests import Values
from model.errors import InputError
from model.files import version_number

log = logging.getLogger(__name__)


class LoadedVersion:
    """A SavedModel in memory, callable from several threads at once."""

    def __init__(self, path: str):
        """Loads a version if it is unchanged, and replays the requests recorded at its publication.

        Args:
          path: the version's folder. A version from an older charloom has no manifest; then only
            its recorded answers are compared.

        Raises:
          InputError: it can't be loaded, differs from its manifest, or answers differently.
        """
        self.path = path
        self.number = version_number(path) or 0
        started = time.monotonic()
        try:
            self.digest = version_digest(path)
            """SHA-256 of its MANIFEST.json; None without one."""
            self._check_files()
            self._model = tf.saved_model.load(path)
            self._functions = dict(self._model.signatures)
            self._warm_up()
            if version_digest(path) != self.digest:
                raise InputError(f"{path} was changed while it was being loaded; try again")
        except InputError:
            raise
        except Exception as error:  # TensorFlow raises many types
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{path} can't be loaded ({reason}); publish it again") from None
        self.load_seconds = time.monotonic() - started

    @property
    def signatures(self) -> list[str]:
        """Names of the signatures."""
        return sorted(self._functions)

    def inputs(self, signature: str) -> dict[str, TensorInfo]:
        """Returns a signature's inputs, by name."""
        specs = self._functions[signature].structured_input_signature[1]
        return {name: _describe(spec) for name, spec in specs.items()}

    def outputs(self, signature: str) -> dict[str, TensorInfo]:
        """Returns a signature's outputs, by name."""
        specs = self._functions[signature].structured_outputs
        return {name: _describe(spec) for name, spec in specs.items()}

    def ask(self, signature: str, inputs: Values) -> dict[str, np.ndarray[Any, Any]]:
        """Calls a signature and returns its outputs.

        Args:
          signature: one of `signatures`.
          inputs: values of the right types, as checked by `components.serve.requests`.
        """
        function = self._functions[signature]
        found = function(**as_tensors(function, inputs))
        return {name: value.numpy() for name, value in found.items()}

    def _check_files(self) -> None:
        if self.digest is None:
            log.warning("%s has no %s: its files are not checked", self.path, MANIFEST_FILE)
        else:
            check_unchanged(self.path, instead="publish it again")

    def _warm_up(self) -> None:
        path = os.path.join(self.path, REQUESTS_FILE)
        if not os.path.exists(path):
            raise InputError(f"{self.path} has no {REQUESTS_FILE}; publish it again")
        with open(path, encoding="utf-8") as file:
            requests = json.load(file)["requests"]
        for number, request in enumerate(requests):
            function = self._functions[request["signature"]]
            answer = function(**as_tensors(function, request["inputs"]))
            problem = differs(answer, request["outputs"])
            if problem:
                raise InputError(
                    f"{self.path} answers request {number} of {REQUESTS_FILE} "
                    f"({request['signature']}) differently than when it was published ({problem}); "
                    "publish it again"
                )


def _describe(spec: tf.TensorSpec) -> TensorInfo:
    return TensorInfo(spec.dtype.name, tuple(spec.shape.as_list()))
