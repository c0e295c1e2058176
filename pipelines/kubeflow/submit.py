"""Uploads the pipeline to Kubeflow Pipelines and starts a run of it."""

from __future__ import annotations

import argparse
import datetime
import json
import secrets
from collections.abc import Callable
from typing import Any

import kfp_server_api as api  # type: ignore[import-untyped]

from pipelines.kubeflow.client import Kubeflow, RefusedError, UnavailableError
from pipelines.kubeflow.package import Package

EQUALS = 1
"""The SDK's number for this filter operation."""


def submit(kubeflow: Kubeflow, package: Package, options: argparse.Namespace) -> str:
    """Starts a run and prints its address; returns its id.

    Raises:
      RefusedError, UnavailableError: Kubeflow Pipelines did not accept it.
    """
    reference = upload(kubeflow, package)
    experiment = find_experiment(kubeflow, options.experiment)
    now = datetime.datetime.now().astimezone()
    run = api.V2beta1Run(
        display_name=options.name or f"{package.name} {now:%Y-%m-%d %H-%M-%S}",
        experiment_id=experiment,
        pipeline_version_reference=reference,
        runtime_config=api.V2beta1RuntimeConfig(parameters=dict(package.parameters)),
        service_account=options.service_account or None,
    )
    return create_run(kubeflow, run, "Made by charloom submit.")


def create_run(kubeflow: Kubeflow, run: Any, description: str) -> str:
    """Starts a run, only once even if connections break; prints id and link, returns the id."""
    ticket = secrets.token_hex(8)
    run.description = f"{description} Ticket: {ticket}"

    def find() -> Any:
        pages = kubeflow.pages(
            kubeflow.client.runs.run_service_list_runs,
            "runs",
            experiment_id=run.experiment_id,
            filter=equals("display_name", run.display_name),
        )
        return next((one for one in pages if ticket in (one.description or "")), None)

    def create() -> Any:
        return kubeflow.call(kubeflow.client.runs.run_service_create_run, run, repeat=False)

    made = create_once(create, find)
    print(f"run:  {made.run_id}")
    print(f"link: {kubeflow.link('runs', 'details', made.run_id)}", flush=True)
    return str(made.run_id)


def create_once(create: Callable[[], Any], find: Callable[[], Any], *, attempts: int = 4) -> Any:
    """Creates something without a unique name; if unanswered, looks for it before retrying.

    Args:
      create: sends the request.
      find: returns what an earlier attempt created, or None.
      attempts: maximum number of requests.
    """
    for attempt in range(attempts):
        try:
            return create()
        except UnavailableError:
            if attempt == attempts - 1:
                raise
            made = find()
            if made is not None:
                return made
    raise AssertionError("unreachable")


def upload(kubeflow: Kubeflow, package: Package) -> Any:
    """Returns a reference to the pipeline version with this content, uploading it if missing."""
    pipeline = _find_pipeline(kubeflow, package)
    version = _find_version(kubeflow, pipeline, package)
    new = version is None
    if version is None:
        try:
            version = kubeflow.call(
                kubeflow.client.pipeline_uploads.upload_pipeline_version,
                package.path,
                name=package.version,
                pipelineid=pipeline,
                description=f"Compiled by charloom; SHA-256 {package.digest}",
            ).pipeline_version_id
        except RefusedError as error:
            # Created concurrently, or an answer was lost and the request repeated.
            version = _find_version(kubeflow, pipeline, package)
            if error.status != 409 or version is None:
                raise
    print(f"pipeline: {package.name}, version {package.version}{' (new)' if new else ''}")
    return api.V2beta1PipelineVersionReference(pipeline_id=pipeline, pipeline_version_id=version)


def _find_pipeline(kubeflow: Kubeflow, package: Package) -> str:
    service = kubeflow.client.pipelines
    scope: dict[str, Any] = {"namespace": kubeflow.namespace} if kubeflow.namespace else {}

    def find() -> str | None:
        by_name = service.pipeline_service_get_pipeline_by_name
        try:
            return str(kubeflow.call(by_name, package.name, **scope).pipeline_id)
        except RefusedError as error:
            if error.status != 404:
                raise
            return None

    pipeline = find()
    if pipeline is not None:
        return pipeline
    info = package.spec["pipelineInfo"]
    body = api.V2beta1Pipeline(
        name=package.name,
        display_name=info.get("displayName", package.name),
        description=info.get("description"),
        namespace=kubeflow.namespace,
    )
    try:
        return str(kubeflow.call(service.pipeline_service_create_pipeline, body).pipeline_id)
    except RefusedError as error:
        pipeline = find()  # created in the meantime
        if error.status != 409 or pipeline is None:
            raise
        return pipeline


def _find_version(kubeflow: Kubeflow, pipeline: str, package: Package) -> str | None:
    versions = kubeflow.pages(
        kubeflow.client.pipelines.pipeline_service_list_pipeline_versions,
        "pipeline_versions",
        pipeline_id=pipeline,
        filter=equals("name", package.version),
    )
    return next((str(one.pipeline_version_id) for one in versions), None)


def find_experiment(kubeflow: Kubeflow, name: str) -> str:
    """Returns the id of an experiment, creating it if missing, as the SDK does."""
    service = kubeflow.client.experiments
    scope: dict[str, Any] = {"namespace": kubeflow.namespace} if kubeflow.namespace else {}

    def find() -> str | None:
        pages = kubeflow.pages(
            service.experiment_service_list_experiments,
            "experiments",
            filter=equals("display_name", name),
            **scope,
        )
        return next((str(one.experiment_id) for one in pages), None)

    experiment = find()
    if experiment is not None:
        return experiment
    body = api.V2beta1Experiment(display_name=name, namespace=kubeflow.namespace)
    try:
        made = kubeflow.call(service.experiment_service_create_experiment, body)
    except RefusedError as error:
        experiment = find()
        if error.status != 409 or experiment is None:
            raise
        return experiment
    print(f"experiment: {name} (new)")
    return str(made.experiment_id)


def equals(key: str, value: str) -> str:
    """Returns a filter in the API's format."""
    predicate = {"operation": EQUALS, "key": key, "stringValue": value}
    return json.dumps({"predicates": [predicate]})
