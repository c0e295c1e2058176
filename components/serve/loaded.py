"""A version of a model in memory, ready to be asked."""

from __future__ import annotations

import json
import os
import time
from typing import Any, NamedTuple

import tensorflow as tf
import tensorflow_text  # noqa: F401 (registers ops of exported models)

from components.export.checking import REQUESTS_FILE
from components.export.probe import as_plain, as_tensors
from model.errors import InputError

Values = dict[str, Any]
"""Plain lists, numbers and texts by name."""


class InputSpec(NamedTuple):
    """What a signature takes under a name."""

    dtype: tf.DType
    rank: int


class LoadedVersion:
    """A SavedModel in memory. Threads may ask it at the same time."""

    def __init__(self, path: str):
        """Loads a version and asks it once, so that the first request is not the slowest.

        Args:
          path: the version's folder.

        Raises:
          InputError: it can't be loaded, or can't be asked.
        """
        self.path = path
        name = os.path.basename(os.path.normpath(path))
        self.number = int(name) if name.isdecimal() else 0
        started = time.monotonic()
        try:
            self._model = tf.saved_model.load(path)
            self._functions = dict(self._model.signatures)
            self._warm_up()
        except InputError:
            raise
        except Exception as error:  # TensorFlow raises many kinds
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{path} can't be loaded ({reason}); publish it again") from None
        self.load_seconds = time.monotonic() - started

    @property
    def signatures(self) -> list[str]:
        """Names of what can be asked."""
        return sorted(self._functions)

    def inputs(self, signature: str) -> dict[str, InputSpec]:
        """Returns what a signature takes, by name."""
        specs = self._functions[signature].structured_input_signature[1]
        return {name: InputSpec(spec.dtype, spec.shape.rank) for name, spec in specs.items()}

    def outputs(self, signature: str) -> dict[str, InputSpec]:
        """Returns what a signature answers, by name."""
        specs = self._functions[signature].structured_outputs
        return {name: InputSpec(spec.dtype, spec.shape.rank) for name, spec in specs.items()}

    def ask(self, signature: str, inputs: Values) -> Values:
        """Asks and returns the answer as plain values.

        Args:
          signature: one of `signatures`.
          inputs: values of the right types, as `components.serve.requests` checks.
        """
        function = self._functions[signature]
        found = function(**as_tensors(function, inputs))
        return {name: as_plain(value) for name, value in found.items()}

    def _warm_up(self) -> None:
        path = os.path.join(self.path, REQUESTS_FILE)
        if not os.path.exists(path):
            raise InputError(f"{self.path} has no {REQUESTS_FILE}; publish it again")
        with open(path, encoding="utf-8") as file:
            for request in json.load(file)["requests"]:
                self.ask(request["signature"], request["inputs"])
