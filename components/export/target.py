"""Where a run is going to publish, checked before it begins: only its last step would use it."""

from __future__ import annotations

import os

from components.component_runtime import in_cluster
from components.export.registry import check_name
from model.errors import InputError


def check_target(registry: str, name: str, *, mount: str = "") -> None:
    """Checks the registry and the name under which a run publishes its model.

    Args:
      registry: folder of all models.
      name: the model's name in it.
      mount: where the run's pods mount their volume, if this is not one of them. In a pod, any
        volume that it mounts will do.

    Raises:
      InputError: the name can't be used, or what is published would vanish with the pod.
    """
    check_name(name)
    place = os.path.normpath(registry) if registry else ""
    if not registry.startswith("/") and (mount or in_cluster()):
        raise InputError(f"registry is {registry!r}; it must be a folder, as the pods see it")
    if mount and not place.startswith(f"{mount}/"):
        raise InputError(
            f"registry {registry} is on no volume that the pods mount; name a folder below {mount}"
        )
    if not mount and in_cluster():
        place = os.path.realpath(registry)
        while place != "/" and not os.path.ismount(place):
            place = os.path.dirname(place)
        if place == "/":
            raise InputError(
                f"registry {registry} is on no volume that this pod mounts; what is published there "
                "would be lost with the pod"
            )
