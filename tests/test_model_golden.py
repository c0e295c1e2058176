"""Losses of real trainings, by one worker and by two, against a file.

After a wanted change of what is computed, write the file anew, from the repository's root:

    .venv/bin/python tests/test_model_golden.py
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from volume import keep_first

from components.train.main import run
from components.train.training_job import TrainingJob
from model.config import Config, with_overrides
from model.metrics import read_metrics
from model.presets import tiny

GOLDEN = Path(__file__).resolve().parent / "data" / "golden_losses.json"
STEPS = 100
TOLERANCE = 1e-5
"""Relative. Each kind of processor rounds in its own way, so no machine need have the same bits."""

VARIANTS = {
    "full": [],
    # All that is drawn at random or cut otherwise than in a run with the full softmax.
    "sampled": [
        "train.softmax=sampled",
        "train.sampled_words=64",
        "train.rare_targets=0.1",
        "train.average_last=0.3",
        "model.lstm_projection=12",
        "model.recurrent_dropout=0.1",
        "model.dropout_mask=word",
    ],
}


def make_config(variant: str) -> Config:
    return with_overrides(tiny(), [f"train.steps={STEPS}", "train.log_steps=1", *VARIANTS[variant]])


def train(records: str, workdir: str, *, variant: str, workers: int) -> dict[str, Any]:
    """Returns the losses of all steps, and the best validation perplexity."""
    result = run(
        TrainingJob(records=records, workdir=workdir, workers=workers), make_config(variant)
    )
    losses = {row["step"]: row["loss"] for row in read_metrics(workdir) if "loss" in row}
    assert list(losses) == list(range(1, STEPS + 1))
    return {"losses": list(losses.values()), "valid_perplexity": result["valid_perplexity"]}


@pytest.mark.slow
@pytest.mark.parametrize("workers", keep_first([1, 2]))
@pytest.mark.parametrize("variant", VARIANTS)
def test_losses_are_the_golden_ones(
    tiny_records: str, tmp_path: Path, variant: str, workers: int
) -> None:
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))[variant]
    assert len(golden["losses"]) == STEPS
    assert len(set(golden["losses"])) == STEPS
    found = train(tiny_records, str(tmp_path / "workdir"), variant=variant, workers=workers)
    for step, (loss, expected) in enumerate(
        zip(found["losses"], golden["losses"], strict=True), start=1
    ):
        assert loss == pytest.approx(expected, rel=TOLERANCE), f"step {step}"
    assert found["valid_perplexity"] == pytest.approx(golden["valid_perplexity"], rel=TOLERANCE)


def write_golden() -> None:
    """Trains all variants by one worker and writes the file."""
    from components.preprocess.main import run as prepare

    about = (
        "Loss per word in nats, and the best validation perplexity; see tests/test_model_golden.py."
    )
    golden: dict[str, Any] = {"about": about}
    with tempfile.TemporaryDirectory() as folder:
        records = f"{folder}/records"
        corpus = GOLDEN.parent / "corpus"
        prepare(inputs=[str(corpus)], records=records, config=tiny().data)
        for variant in VARIANTS:
            golden[variant] = train(records, f"{folder}/{variant}", variant=variant, workers=1)
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    import conftest  # noqa: F401  # the settings of TensorFlow that the tests have

    write_golden()
