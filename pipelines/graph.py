"""The graph: find inputs, preprocess, train, evaluate, then export or report the rejection.

`charloom run` executes this object and `charloom compile` writes it as YAML. No
`from __future__ import annotations` here: KFP reads the annotations as objects.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from kfp import dsl, kubernetes
from kfp.dsl.pipeline_channel import PipelineChannel

from components.component_runtime import IMAGE_VARIABLE, RUN_VARIABLE, container_image
from components.evaluate.component import evaluate, report_rejection
from components.evaluate.gate import PASSED
from components.export.component import export
from components.preprocess.component import find_inputs, preprocess
from components.run_settings import DEFAULT_PRESET
from components.train.component import train

MOUNT = "/mnt/charloom"
"""Mount path of the shared volume in every task and worker."""

WORKSPACE = f"{dsl.WORKSPACE_PATH_PLACEHOLDER}/charloom"
"""Mount path of a run's data where KFP creates a volume for each run."""

USER = 65532
"""User and group of all our pods; the shared volume must be writable for them."""

RUN_LABEL = "metadata.labels['pipeline/runid']"
"""Label that KFP sets on all pods of a run."""

DAY = 24 * 3600

DOCS = "All fields of settings: docs/parameters.md of charloom."


class Outputs(NamedTuple):
    """The outputs of the whole graph."""

    verdict: str
    version: str
    records: dsl.Dataset
    workdir: dsl.Model
    report: dsl.Artifact
    page: dsl.HTML


def build(workspace: dsl.WorkspaceConfig | None = None) -> Any:
    """Returns the graph.

    Args:
      workspace: volume for records, workdir and report that KFP creates for each run and removes
        when it succeeds; by default they are on the volume given to the run.
    """
    settings = dsl.PipelineConfig(workspace=workspace) if workspace else None
    shared = WORKSPACE if workspace else MOUNT

    @dsl.pipeline(
        name="train-language-model",
        display_name="Train a language model",
        pipeline_config=settings,
    )
    def train_language_model(
        corpus: str = f'["{MOUNT}/corpus"]',
        corpus_window_days: int = 1,
        model_name: str = "lm",
        model_registry: str = f"{MOUNT}/registry",
        prepare_memory: str = "8Gi",
        preset: str = DEFAULT_PRESET,
        settings: list = [],  # type: ignore[type-arg]  # noqa: B006 (KFP reads it, nobody writes)
        volume: str = "charloom",
        worker_cpu: str = "2",
        worker_deadline_hours: float = 72.0,
        worker_gpus: int = 0,
        worker_image: str = "",
        worker_memory: str = "8Gi",
        worker_node_selector: dict = {},  # type: ignore[type-arg]  # noqa: B006
        worker_queue: str = "",
        workers: int = 1,
    ) -> Outputs:
        """Trains a joint word and character language model on raw text, evaluates it, and publishes it if it passes the gate.

        Args:
            corpus: Text to learn from. A JSON list of files, folders and glob patterns visible in
                the pods, for instance ["/mnt/charloom/corpus/*.txt"], of addresses at s3:// or
                gs://, or of "@FILE", which lists these, one per line. {date:%Y-%m-%d} stands for
                each day of the window, in any strftime format.
            corpus_window_days: Days covered by the dates in corpus. The last one is the day before
                the run's scheduled day, in UTC.
            model_name: Name of the model in the registry.
            model_registry: Folder in which versions of the model are published.
            prepare_memory: Memory of the step that prepares the text.
            preset: Configuration to start from. One of tiny, demo, small, brown and onebillion,
                or a whole one as JSON, such as the config.json of an earlier run.
            settings: What differs from the preset. A JSON list of section.field=value, for
                instance ["train.steps=5000", "gate.max_perplexity=90", "run.warm_start=champion"].
                The docs list all fields.
            volume: Persistent volume claim with the text, the registry and the data of all runs.
                It must be ReadWriteMany. Every pod mounts it at /mnt/charloom.
            worker_cpu: CPUs per worker, for instance 8 or 500m.
            worker_deadline_hours: Hours after which workers are ended, starting over after each
                restart. The training up to then is kept.
            worker_gpus: NVIDIA GPUs per worker. 0 trains on CPUs.
            worker_image: Container image of the workers, for instance one with CUDA. Empty means
                the image of the steps.
            worker_memory: Memory of each worker, for instance 16Gi. The steps that evaluate and
                export the model get the same.
            worker_node_selector: Labels of the nodes for the workers. A JSON object, for instance
                {"cloud.google.com/gke-accelerator": "nvidia-l4"}.
            worker_queue: LocalQueue of Kueue that admits the workers, all or none. Empty means
                that they start without Kueue.
            workers: Number of workers that train together. On a cluster, each is a pod.

        Returns:
            verdict: PASSED or REJECTED.
            version: Path of the published version, empty if rejected.
            records: Encoded text, vocabulary and dataset.json, or where they are.
            workdir: Checkpoints, TensorBoard events and worker logs, or where they are.
            report: Folder of report.json and report.html, or where it is.
            page: The report as a page.
        """
        found = find_inputs(
            corpus=corpus,
            settings=settings,
            preset=preset,
            registry=model_registry,
            model_name=model_name,
            window_days=corpus_window_days,
            scheduled=dsl.PIPELINE_JOB_SCHEDULE_TIME_UTC_PLACEHOLDER,
            created=dsl.PIPELINE_JOB_CREATE_TIME_UTC_PLACEHOLDER,
            shared=shared,
            prepare_memory=prepare_memory,
            worker_cpu=worker_cpu,
            worker_gpus=worker_gpus,
            worker_memory=worker_memory,
            workers=workers,
        )
        _place(found, "Find the inputs", volume=volume, memory="1Gi")
        # KFP's cache would identify the text only by name, and not notice changes.
        found.set_caching_options(enable_caching=False)
        # Not the artifact of the listing: the cache would know it by an id that is new in each run.
        prepared = preprocess(
            listing_folder=found.outputs["listing_folder"],
            config=found.outputs["data"],
            run_settings=found.outputs["preparation"],
            fingerprint=found.outputs["fingerprint"],
            shared=shared,
        )
        _place(prepared, "Preprocess", volume=volume, memory=prepare_memory, retries=2)
        records = prepared.outputs["records"]
        trained = train(
            records=records,
            config=found.outputs["config"],
            workers=workers,
            warm_start=found.outputs["base"],
            begun=found.outputs["begun"],
            run_settings=found.outputs["training"],
            shared=shared,
            task=dsl.PIPELINE_TASK_NAME_PLACEHOLDER,
            image=worker_image,
            queue=worker_queue,
            gpus_per_worker=worker_gpus,
            deadline_hours=worker_deadline_hours,
        )
        _place(trained, "Train", volume=volume, memory=worker_memory, cpu=worker_cpu, retries=5)
        _place_workers(trained, worker_node_selector)
        workdir = trained.outputs["workdir"]
        evaluated = evaluate(
            records=records,
            workdir=workdir,
            config=found.outputs["judged"],
            champion=found.outputs["champion"],
            reference=found.outputs["reference"],
            identity=found.outputs["run"],
            shared=shared,
        )
        _place(
            evaluated, "Evaluate", volume=volume, memory=worker_memory, cpu=worker_cpu, retries=2
        )
        report = evaluated.outputs["report"]
        # If and Else together: kfp.local silently skips a lone top-level If on a named output.
        with dsl.If(evaluated.outputs["verdict"] == PASSED, name="passed"):
            exported = export(
                records=records,
                workdir=workdir,
                report=report,
                registry=model_registry,
                name=model_name,
                shared=shared,
            )
            _place(exported, "Export", volume=volume, memory=worker_memory)
            exported.set_caching_options(enable_caching=False)  # its effect is in the registry
        with dsl.Else(name="rejected"):
            rejected = report_rejection(report=report)
            _place(rejected, "Report the rejection", volume=None, memory="1Gi")
            rejected.set_caching_options(enable_caching=False)
        return Outputs(
            verdict=evaluated.outputs["verdict"],
            version=dsl.OneOf(exported.outputs["version"], rejected.outputs["version"]),
            records=records,
            workdir=workdir,
            report=report,
            page=evaluated.outputs["page"],
        )

    train_language_model.pipeline_spec.pipeline_info.description = _describe(train_language_model)
    return train_language_model


def _describe(graph: Any) -> str:
    """Returns the graph's description for KFP's pages: a table of its parameters."""
    rows = ["| parameter | meaning |", "|---|---|"]
    for name, parameter in sorted(graph.pipeline_spec.root.input_definitions.parameters.items()):
        meaning = " ".join(parameter.description.split()).split(". ")[0].rstrip(".")
        rows.append(f"| {name} | {meaning} |")
    return "\n".join([graph.description, "", *rows, "", DOCS])


def _place(
    task: dsl.PipelineTask,
    name: str,
    *,
    volume: Any,
    memory: Any,
    cpu: Any = "1",
    retries: int = 0,
) -> None:
    """Configures a task's pod.

    Args:
      task: the task.
      name: display name in the UI.
      volume: claim to mount; None: none.
      memory: request and limit.
      cpu: request; a limit would only slow it down.
      retries: maximum retries; only for idempotent steps.
    """
    task.set_display_name(name)
    task.set_memory_request(memory).set_memory_limit(memory).set_cpu_request(cpu)
    # kfp 2.17.3 forgets them: inside dsl.If they would be unknown.
    task.register_pipeline_channels(
        [value for value in (memory, cpu) if isinstance(value, PipelineChannel)]
    )
    if retries:
        # Argo gives up `backoff_max_duration` after the first start, which a training that was
        # running all the time must survive.
        task.set_retry(
            retries, backoff_duration="60s", backoff_factor=2.0, backoff_max_duration=f"{14 * DAY}s"
        )
    if volume is not None:
        kubernetes.mount_pvc(task, pvc_name=volume, mount_path=MOUNT)
    kubernetes.use_field_path_as_env(task, RUN_VARIABLE, RUN_LABEL)
    kubernetes.set_image_pull_policy(task, "IfNotPresent")
    kubernetes.set_security_context(task, run_as_user=USER, run_as_group=USER, run_as_non_root=True)


def _place_workers(trained: dsl.PipelineTask, node_selector: Any) -> None:
    """Sets the nodes for the workers; the train task passes it on."""
    kubernetes.add_node_selector_json(trained, node_selector)
    # Most clusters keep other pods off their GPU nodes with this taint.
    kubernetes.add_toleration(trained, key="nvidia.com/gpu", operator="Exists", effect="NoSchedule")
    # Lets the task's page start a TensorBoard from the same image.
    trained.set_env_variable(IMAGE_VARIABLE, container_image())


# In a thread: KFP inspects the stack for every setting of a task, and a stack with frames of an import
# makes Python search all modules each time.
with ThreadPoolExecutor(max_workers=1) as _thread:
    train_language_model = _thread.submit(build).result()
