"""The KFP component of the train stage.

No `from __future__ import annotations` here: KFP reads the annotations as objects. KFP
ships a function's source only, so everything a body needs is imported inside it.
"""

from kfp import dsl

from components.task import container_image


@dsl.component(base_image=container_image(), install_kfp_package=False)
def train(
    records: dsl.Input[dsl.Dataset],
    config: str,
    workers: int,
    workdir: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Trains the model on worker processes that share each global batch.

    Args:
        records: folder that preprocess made.
        config: the whole configuration as JSON.
        workers: number of worker processes.
        workdir: folder of checkpoints, TensorBoard events and worker logs.
        metrics: step and validation perplexity of the best checkpoint.
    """
    from components.task import max_restarts, reporting_errors, select_numbers
    from components.train.main import run
    from model.config import from_json

    with reporting_errors():
        result = run(
            records=records.path,
            workdir=workdir.path,
            config=from_json(config),
            workers=workers,
            max_restarts=max_restarts(),
        )
    for name, value in select_numbers(
        result, {"step": "step", "valid_perplexity": "valid_perplexity"}
    ).items():
        metrics.log_metric(name, value)
