"""Checks where a run is going to publish, before it starts: only its last step would notice."""

from __future__ import annotations

import os

from components.component_runtime import in_cluster
from components.export.registry import RegisteredModel, check_name
from model.errors import InputError


def check_target(model: RegisteredModel, *, mount: str = "") -> None:
    """Checks the registry and the name under which a run will publish its model.

    Args:
      model: where it will be published.
      mount: mount path of the volume in the run's pods, if this is not one of them. In a pod, any
        mounted volume will do.

    Raises:
      InputError: the name is invalid, or the published model would vanish with the pod.
    """
    check_name(model.name)
    registry = model.registry
    place = os.path.normpath(registry) if registry else ""
    if not registry.startswith("/") and (mount or in_cluster()):
        raise InputError(f"registry is {registry!r}; it must be a folder, as the pods see it")
    if mount and not place.startswith(f"{mount}/"):
        raise InputError(
            f"registry {registry} is not on a volume mounted in the pods; name a folder below {mount}"
        )
    if not mount and in_cluster():
        place = os.path.realpath(registry)
        while place != "/" and not os.path.ismount(place):
            place = os.path.dirname(place)
        if place == "/":
            raise InputError(
                f"registry {registry} is not on a volume mounted in this pod; a model published there "
                "would be lost with the pod"
            )
