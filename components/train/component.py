"""The KFP component of the train stage.

No `from __future__ import annotations` here: KFP reads the annotations as objects. KFP ships only a
function's source, so bodies import everything they need.
"""

from kfp import dsl

from components.component_runtime import container_image


@dsl.component(
    base_image=container_image(),
    install_kfp_package=False,
    # On a cluster this task only launches: its settings in KFP are for the workers. Both
    # need the volumes; GPUs requested for this pod, too, would be idle.
    task_config_passthroughs=[
        dsl.TaskConfigField.RESOURCES,
        dsl.TaskConfigField.KUBERNETES_NODE_SELECTOR,
        dsl.TaskConfigField.KUBERNETES_TOLERATIONS,
        dsl.TaskConfigField.KUBERNETES_AFFINITY,
        dsl.TaskConfigPassthrough(field=dsl.TaskConfigField.ENV, apply_to_task=True),
        dsl.TaskConfigPassthrough(field=dsl.TaskConfigField.KUBERNETES_VOLUMES, apply_to_task=True),
    ],
)
def train(
    records: dsl.Input[dsl.Dataset],
    config: str,
    workers: int,
    workdir: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    curves: dsl.Output[dsl.HTML],
    mlpipeline_ui_metadata: dsl.Output[dsl.Artifact],
    task_config: dsl.TaskConfig,
    warm_start: str = "",
    begun: str = "",
    run_settings: str = "{}",
    shared: str = "",
    task: str = "train",
    image: str = "",
    queue: str = "",
    gpus_per_worker: int = 0,
    deadline_hours: float = 72.0,
) -> None:
    """Trains the model on workers that share each global batch.

    On a cluster the workers are pods of a JobSet, elsewhere local processes.

    Args:
        records: output of preprocess.
        config: the whole configuration as JSON.
        workers: number of workers.
        workdir: folder of checkpoints, TensorBoard events and worker logs, or of LOCATION, which
            names that folder.
        metrics: step and validation perplexity of the best checkpoint.
        curves: learning curves, for the KFP page of this task.
        mlpipeline_ui_metadata: lets KFP's page start a TensorBoard; on a cluster only.
        task_config: this task's settings in KFP, for the workers.
        warm_start: folder of the version whose weights training starts from; empty: random ones.
        begun: digest of that version's checkpoint; makes KFP's cache distinguish it from another in
            the same folder.
        run_settings: the run's settings as JSON; the number of restarts is used.
        shared: mount path of the shared volume in a cluster's pods.
        task: name of the task in its run.
        image: container image of the workers; empty: this task's image.
        queue: Kueue's queue for the workers; empty: none.
        gpus_per_worker: NVIDIA GPUs per worker.
        deadline_hours: maximum running time of the workers, starting over after each restart.
    """
    import json

    from components.component_runtime import (
        container_image,
        describe_output,
        in_cluster,
        input_folder,
        output_folder,
        reporting_errors,
        run_folder,
        select_numbers,
    )
    from components.run_settings import RunSettings
    from components.train.cluster.task_config import describe_viewer, jobset_options, pod_fragments
    from components.train.curves import write_curves
    from components.train.main import run
    from components.train.training_job import TrainingJob
    from model.config import from_json

    fragments = pod_fragments(task_config)
    with reporting_errors():
        folder = output_folder(workdir.path, run_folder(shared), "work")
        jobset = None
        if in_cluster():
            jobset = jobset_options(
                fragments,
                task=task,
                image=image,
                queue=queue,
                gpus_per_worker=gpus_per_worker,
                deadline_hours=deadline_hours,
            )
        job = TrainingJob(
            records=input_folder(records.path),
            workdir=folder,
            workers=workers,
            warm_start=warm_start,
            max_restarts=RunSettings.from_json(run_settings).max_restarts,
        )
        result = run(job, from_json(config), jobset=jobset)
        describe_output(workdir.path, folder, "config.json")
        write_curves(folder, curves.path)
    viewer = describe_viewer(folder, image=image or container_image(), fragments=fragments)
    if viewer:
        with open(mlpipeline_ui_metadata.path, "w", encoding="utf-8") as file:
            json.dump(viewer, file)
    for name, value in select_numbers(
        result, {"step": "step", "valid_perplexity": "valid_perplexity"}
    ).items():
        metrics.log_metric(name, value)
