"""Imports TensorFlow without what its C++ parts print."""

from __future__ import annotations

import os
import sys
import tempfile

from components.component_runtime import quick_imports


def import_tensorflow() -> None:
    """Hides what TensorFlow's C++ parts print while loading; shows it if loading fails."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as file:
        saved = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            with quick_imports():
                import tensorflow
                import tensorflow_text  # noqa: F401 (registers ops of exported models)

                from model.distributed.devices import prepare_devices

            prepare_devices()
            tensorflow.constant(0)  # initialises the devices
        except Exception:
            file.seek(0)
            os.write(saved, file.read())
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)
