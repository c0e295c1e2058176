"""The KFP component of the export stage.

No `from __future__ import annotations` here: KFP reads the annotations as objects. KFP ships only a
function's source, so bodies import everything they need.
"""

from typing import NamedTuple

from kfp import dsl

from components.component_runtime import container_image


@dsl.component(base_image=container_image(), install_kfp_package=False)
def export(
    records: dsl.Input[dsl.Dataset],
    workdir: dsl.Input[dsl.Model],
    report: dsl.Input[dsl.Artifact],
    registry: str,
    name: str,
    shared: str = "",
) -> NamedTuple("Exported", [("version", str)]):  # type: ignore[valid-type]
    """Publishes the best checkpoint as a new SavedModel version in the registry.

    Args:
        records: output of preprocess.
        workdir: output of train.
        report: output of evaluate.
        registry: folder of published models.
        name: name of the model in the registry.
        shared: mount path of the shared volume in a cluster's pods; KFP mounts its workspace in
            tasks that name it.

    Returns:
        version: path of the new version.
    """
    from components.component_runtime import input_folder, quick_imports, reporting_errors

    with quick_imports():
        from components.export.main import run

    with reporting_errors():
        version = run(
            records=input_folder(records.path),
            workdir=input_folder(workdir.path),
            report=input_folder(report.path),
            registry=registry,
            name=name,
        )
    return (version,)
