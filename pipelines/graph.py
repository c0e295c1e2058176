"""The graph: find inputs, preprocess, train, evaluate, then export or report the rejection.

`charloom run` executes this very object and `charloom compile` writes it as YAML. No
`from __future__ import annotations` here: KFP reads the annotations as objects.
"""

from typing import Any, NamedTuple

from kfp import dsl, kubernetes
from kfp.dsl.pipeline_channel import PipelineChannel

from components.component_runtime import IMAGE_VARIABLE, RUN_VARIABLE, container_image
from components.evaluate.component import evaluate, report_rejection
from components.evaluate.gate import PASSED
from components.export.component import export
from components.preprocess.analysis.drift_limits import NO_LIMIT
from components.preprocess.component import find_inputs, preprocess
from components.preprocess.inputs.warm_start_options import DEFAULT_SHARE
from components.train.component import train

MOUNT = "/mnt/charloom"
"""Where every task and every worker mounts the shared volume."""

WORKSPACE = f"{dsl.WORKSPACE_PATH_PLACEHOLDER}/charloom"
"""The same, for the data of a run, where KFP makes a volume for each run."""

USER = 65532
"""User and group of all our pods; the shared volume must let them write."""

RUN_LABEL = "metadata.labels['pipeline/runid']"
"""KFP gives this label to all pods of a run."""

DAY = 24 * 3600


class Outputs(NamedTuple):
    """What the whole graph hands out."""

    verdict: str
    version: str
    records: dsl.Dataset
    workdir: dsl.Model
    report: dsl.Artifact
    page: dsl.HTML


def build(workspace: dsl.WorkspaceConfig | None = None) -> Any:
    """Returns the graph.

    Args:
      workspace: volume that KFP makes for each run and removes when it has succeeded, which
        then holds records, workdir and report; by default they are on the volume that a run
        names.
    """
    settings = dsl.PipelineConfig(workspace=workspace) if workspace else None
    shared = WORKSPACE if workspace else MOUNT

    @dsl.pipeline(
        name="train-language-model",
        display_name="Train a language model",
        pipeline_config=settings,
    )
    def train_language_model(
        inputs: str = f'["{MOUNT}/corpus"]',
        registry: str = f"{MOUNT}/registry",
        model_name: str = "lm",
        preset: str = "",
        config: str = "",
        workers: int = 1,
        gpus_per_worker: int = 0,
        worker_memory: str = "8Gi",
        worker_cpu: str = "2",
        prepare_memory: str = "8Gi",
        image: str = "",
        queue: str = "",
        deadline_hours: float = 72.0,
        node_selector: dict = {},  # type: ignore[type-arg]  # noqa: B006 (KFP reads it, nobody writes)
        volume: str = "charloom",
        max_perplexity: float = 0.0,
        window_days: int = 1,
        vocab: str = "",
        source_root: str = "",
        compare_to: str = "",
        max_new_word_rate: float = NO_LIMIT,
        max_divergence: float = NO_LIMIT,
        warm_start: str = "",
        steps_share: float = DEFAULT_SHARE,
        extend_vocab: bool = False,
        require_improvement: bool = False,
    ) -> Outputs:
        """Trains a joint word and character language model on raw text, evaluates it, and publishes it if it passes the gate.

        Args:
            inputs: Text to learn from, as a JSON list of files, folders and glob patterns that the
                pods see, for instance ["/mnt/charloom/corpus/*.txt"], of addresses at s3:// or
                gs://, or of "@FILE", which lists such, one a line. {date:%Y-%m-%d} stands for
                each day of the window, in any form that strftime knows.
            registry: Folder in which versions of the model are published.
            model_name: Name of the model in the registry.
            preset: Name of a configuration, one of tiny, demo, small, brown and onebillion. Empty
                means demo, unless config is given.
            config: In place of a preset, the whole configuration as JSON, such as a config.json of
                an earlier run.
            workers: Number of workers that train together, each a pod of its own on a cluster.
            gpus_per_worker: NVIDIA GPUs of each worker; 0 trains on processors.
            worker_memory: Memory of each worker, and of the steps that evaluate and export its
                model, as Kubernetes writes it, for instance 16Gi.
            worker_cpu: Processors of each worker, for instance 8 or 500m.
            prepare_memory: Memory of the step that prepares the text.
            image: Container image of the workers, for instance one with CUDA. Empty means that of
                the steps.
            queue: Kueue's LocalQueue that admits the workers, all or none. Empty means that they
                start without Kueue.
            deadline_hours: Hours after which workers are ended, counted anew when they are
                restarted. What they have learned up to then is kept.
            node_selector: Labels of the nodes on which the workers run, as a JSON object, for
                instance {"cloud.google.com/gke-accelerator": "nvidia-l4"}.
            volume: Persistent volume claim, ReadWriteMany, with the text, the registry and the data
                of all runs. Every pod mounts it at /mnt/charloom.
            max_perplexity: Test perplexity above which the model is not published. 0 means the
                limit of the configuration.
            window_days: Length of the window of dates in inputs, in days. Its last day is the one
                before the day, in UTC, for which the run is scheduled.
            vocab: File of the words of the vocabulary, one a line. Empty means that the text gives
                them.
            source_root: Folder, or beginning of an address, below which the names of files begin,
                which decide their splits. Empty means the folder before the first wildcard or
                date of a pattern in inputs, or before /./ in it.
            compare_to: Folder of records that the pods see, for instance those of an earlier run,
                /mnt/charloom/runs/RUN_ID/records. The step that prepares the text says how far its
                words have drifted from theirs. Empty means that nothing is compared.
            max_new_word_rate: Share of the training words, from 0 to 1, that may be new in
                comparison with compare_to; above it the run fails. 1 means no limit.
            max_divergence: Jensen-Shannon divergence of the words from those of compare_to, in bits,
                from 0 to 1, above which the run fails. 1 means no limit.
            warm_start: Begin with the weights and words of a published version: "champion", or the
                folder of a version or of a model. Empty means that training begins with random
                weights, as it does while there is no champion.
            steps_share: With a warm start, the share of the configuration's training steps that
                are trained, above 0 and up to 1.
            extend_vocab: Add the most frequent words of the text to the words of the warm start,
                or of vocab, as far as the configuration's vocabulary size has room.
            require_improvement: Publish only a model that is significantly better than the
                champion; by default, one that is significantly not worse by the gate's tolerance.

        Returns:
            verdict: PASSED or REJECTED.
            version: Path of the published version, empty if rejected.
            records: Encoded text, vocabulary and dataset.json, or where they are.
            workdir: Checkpoints, TensorBoard events and worker logs, or where they are.
            report: Folder of report.json and report.html, or where it is.
            page: The report as a page.
        """
        found = find_inputs(
            inputs=inputs,
            config=config,
            preset=preset,
            max_perplexity=max_perplexity,
            vocab=vocab,
            source_root=source_root,
            compare_to=compare_to,
            registry=registry,
            model_name=model_name,
            warm_start=warm_start,
            steps_share=steps_share,
            extend_vocab=extend_vocab,
            require_improvement=require_improvement,
            window_days=window_days,
            scheduled=dsl.PIPELINE_JOB_SCHEDULE_TIME_UTC_PLACEHOLDER,
            created=dsl.PIPELINE_JOB_CREATE_TIME_UTC_PLACEHOLDER,
        )
        _place(found, "Find the inputs", volume=volume, memory="1Gi")
        # KFP's cache would know the text by its name only, and take changed text for the same.
        found.set_caching_options(enable_caching=False)
        prepared = preprocess(
            inputs=found.outputs["inputs"],
            config=found.outputs["data"],
            vocab=found.outputs["vocab"],
            extend_vocab=found.outputs["extend_vocab"],
            source_root=source_root,
            compare_to=compare_to,
            max_new_word_rate=max_new_word_rate,
            max_divergence=max_divergence,
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
            shared=shared,
            task=dsl.PIPELINE_TASK_NAME_PLACEHOLDER,
            image=image,
            queue=queue,
            gpus_per_worker=gpus_per_worker,
            deadline_hours=deadline_hours,
        )
        _place(trained, "Train", volume=volume, memory=worker_memory, cpu=worker_cpu, retries=5)
        _place_workers(trained, node_selector)
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
                registry=registry,
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

    return train_language_model


def _place(
    task: dsl.PipelineTask,
    name: str,
    *,
    volume: Any,
    memory: Any,
    cpu: Any = "1",
    retries: int = 0,
) -> None:
    """Says how a task's pod runs.

    Args:
      task: the task.
      name: what the UI calls it.
      volume: name of the claim that it mounts; None: none.
      memory: its request and limit.
      cpu: its request; a limit would only slow it down.
      retries: how often it is started again. Only steps that may do twice what they do.
    """
    task.set_display_name(name)
    task.set_memory_request(memory).set_memory_limit(memory).set_cpu_request(cpu)
    # kfp 2.17.3 forgets them: inside dsl.If they would be unknown.
    task.register_pipeline_channels(
        [value for value in (memory, cpu) if isinstance(value, PipelineChannel)]
    )
    if retries:
        # Argo gives up when `backoff_max_duration` has passed since the first start, which a
        # training that was at work all the time must survive.
        task.set_retry(
            retries, backoff_duration="60s", backoff_factor=2.0, backoff_max_duration=f"{14 * DAY}s"
        )
    if volume is not None:
        kubernetes.mount_pvc(task, pvc_name=volume, mount_path=MOUNT)
    kubernetes.use_field_path_as_env(task, RUN_VARIABLE, RUN_LABEL)
    kubernetes.set_image_pull_policy(task, "IfNotPresent")
    kubernetes.set_security_context(task, run_as_user=USER, run_as_group=USER, run_as_non_root=True)


def _place_workers(trained: dsl.PipelineTask, node_selector: Any) -> None:
    """Says on which nodes the workers run; the train task hands it on."""
    kubernetes.add_node_selector_json(trained, node_selector)
    # Most clusters keep other pods off their GPU nodes by this taint.
    kubernetes.add_toleration(trained, key="nvidia.com/gpu", operator="Exists", effect="NoSchedule")
    # So that the page of the task can start a TensorBoard from the same image.
    trained.set_env_variable(IMAGE_VARIABLE, container_image())


train_language_model = build()
