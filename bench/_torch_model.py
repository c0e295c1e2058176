"""The model of preset `small` and similar ones, written as in PyTorch's documentation.

A separate program: no TensorFlow, nothing of `model/`. Reads a job (JSON) and a file of arrays,
both written by `bench/_data.py`, and answers commands, one JSON object per line:

  {"do": "train", "seconds": 5}    -> {"steps": ..., "words": ..., "seconds": ..., "loss": ...}
  {"do": "train", "steps": 100}    -> the same
  {"do": "evaluate"}               -> {"loss": ..., "words": ..., "seconds": ...}
  end of input                     -> ends

`loss` is a sum in nats. Shape letters: B lanes, T steps, W bytes per word, F filters in total,
D word-embedding size, H LSTM size, V words.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (its name in PyTorch's documentation)
from torch import nn

State = tuple[torch.Tensor, torch.Tensor]


class Highway(nn.Module):
    """y = t * relu(W x) + (1 - t) * x."""

    def __init__(self, size: int):
        super().__init__()
        self.transform = nn.Linear(size, size)
        self.gate = nn.Linear(size, size)
        nn.init.constant_(self.gate.bias, -2.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps `[N, F]` to `[N, F]`."""
        gate = torch.sigmoid(self.gate(x))
        return gate * F.relu(self.transform(x)) + (1.0 - gate) * x


class CharCNN(nn.Module):
    """Maps spellings to vectors."""

    def __init__(self, job: dict[str, Any]):
        super().__init__()
        model = job["model"]
        self.embedding = nn.Embedding(job["num_chars"], model["char_dim"])
        self.convolutions = nn.ModuleList(
            nn.Conv1d(model["char_dim"], count, width)
            for width, count in zip(model["filter_widths"], model["filter_counts"], strict=True)
        )
        self.highways = nn.Sequential(
            *(Highway(sum(model["filter_counts"])) for _ in range(model["highway_layers"]))
        )

    def forward(self, chars: torch.Tensor) -> torch.Tensor:
        """Maps `[N, W]` to `[N, F]`."""
        x = self.embedding(chars).transpose(1, 2)
        pooled = [torch.tanh(convolution(x)).amax(dim=2) for convolution in self.convolutions]
        return self.highways(torch.cat(pooled, dim=1))


class JointModel(nn.Module):
    """Char-CNN and word embedding, LSTM stack, softmax over V words."""

    def __init__(self, job: dict[str, Any]):
        super().__init__()
        model, vocab_size = job["model"], job["vocab_size"]
        word_dim, lstm_dim, layers = model["word_dim"], model["lstm_dim"], model["lstm_layers"]
        of_input, between, of_output = job["dropout"]
        self.adaptive = job["loss"] == "adaptive"
        self.embedding = nn.Embedding(vocab_size, word_dim)
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        self.char_cnn = CharCNN(job)
        self.input_dropout = nn.Dropout(of_input)
        self.output_dropout = nn.Dropout(of_output)
        self.lstm = nn.LSTM(
            sum(model["filter_counts"]) + word_dim,
            lstm_dim,
            num_layers=layers,
            batch_first=True,
            dropout=between if layers > 1 else 0.0,
        )
        self.projection: nn.Module = nn.Identity()
        if self.adaptive:
            self.softmax = nn.AdaptiveLogSoftmaxWithLoss(lstm_dim, vocab_size, job["cutoffs"])
        elif model["tied"]:
            if lstm_dim != word_dim:
                self.projection = nn.Linear(lstm_dim, word_dim)
            self.decoder = nn.Linear(word_dim, vocab_size)
            self.decoder.weight = self.embedding.weight
            nn.init.zeros_(self.decoder.bias)
        else:
            self.decoder = nn.Linear(lstm_dim, vocab_size)

    def forward(
        self, word_ids: torch.Tensor, chars: torch.Tensor, state: State
    ) -> tuple[torch.Tensor, State]:
        """Reads a window.

        Args:
          word_ids: `[B, T]`.
          chars: `[B * T, W]`, the spelling of every word.
          state: output and cell, each `[layers, B, H]`.

        Returns:
          `[B * T, X]` input of the softmax, and the state after the window.
        """
        spelled = self.char_cnn(chars).view(*word_ids.shape, -1)
        x = torch.cat([spelled, self.embedding(word_ids)], dim=2)
        x, state = self.lstm(self.input_dropout(x), state)
        return self.projection(self.output_dropout(x)).flatten(0, 1), state

    def loss(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Returns the mean negative log-likelihood of a window, in nats."""
        if self.adaptive:
            return self.softmax(hidden, targets).loss
        return F.cross_entropy(self.decoder(hidden), targets)

    def scores(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Returns each target's log-likelihood, `[N]`; both softmaxes normalise over V words."""
        if self.adaptive:
            return self.softmax(hidden, targets).output
        return -F.cross_entropy(self.decoder(hidden), targets, reduction="none")


class Program:
    """The model in training, and its input."""

    def __init__(self, job: dict[str, Any]):
        """Takes a job of `bench/_data.py`."""
        torch.set_num_threads(job["threads"])
        torch.manual_seed(job["train"]["seed"])
        self._clip_norm = job["train"]["clip_norm"]
        arrays = np.load(job["arrays"])
        self._data = {
            name: torch.from_numpy(
                arrays[name] if arrays[name].dtype.kind == "f" else arrays[name].astype(np.int64)
            )
            for name in arrays.files
        }
        self._model = JointModel(job)
        decay = [p for p in self._model.parameters() if p.dim() > 1]
        spared = [p for p in self._model.parameters() if p.dim() <= 1]
        self._optimizer = torch.optim.AdamW(
            [
                {"params": decay, "weight_decay": job["train"]["weight_decay"]},
                {"params": spared, "weight_decay": 0.0},
            ],
            fused=job.get("fused", True),  # fastest on a CPU; the default is a loop
        )
        lanes = self._data["word_ids"].shape[1]
        shape = (job["model"]["lstm_layers"], lanes, job["model"]["lstm_dim"])
        self._zero = (torch.zeros(shape), torch.zeros(shape))
        self._state: State = self._zero
        self._step = 0

    def _chars(self, index: torch.Tensor) -> torch.Tensor:
        """Returns the spelling of every word of a window, `[B, T]` to `[B * T, W]`."""
        return self._data["spellings"][index.flatten()]

    def _train_step(self) -> float:
        """Runs one step; returns the mean loss."""
        data = self._data
        at = self._step % len(data["word_ids"])
        for group in self._optimizer.param_groups:
            group["lr"] = float(data["rates"][at])
        self._state = tuple(part.detach() for part in self._state)  # type: ignore[assignment]
        self._optimizer.zero_grad(set_to_none=True)
        hidden, self._state = self._model(
            data["word_ids"][at], self._chars(data["char_index"][at]), self._state
        )
        loss = self._model.loss(hidden, data["targets"][at].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(self._model.parameters(), self._clip_norm)
        self._optimizer.step()
        self._step += 1
        return loss.item()

    def train(self, *, steps: int = 0, seconds: float = 0.0) -> dict[str, float]:
        """Trains for some steps, or for at least some seconds."""
        self._model.train()
        words = self._data["word_ids"][0].numel()
        done, loss, start = 0, 0.0, time.perf_counter()
        while done < steps or (not steps and time.perf_counter() - start < seconds):
            loss += self._train_step() * words
            done += 1
        return {
            "steps": done,
            "words": done * words,
            "seconds": time.perf_counter() - start,
            "loss": loss,
        }

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Scores the validation words, each record from a zero state."""
        self._model.eval()
        data, state = self._data, self._zero
        loss, words, start = 0.0, 0.0, time.perf_counter()
        for at in range(len(data["valid_word_ids"])):
            keep = 1.0 - data["valid_fresh"][at].to(torch.float32)[None, :, None]
            hidden, state = self._model(
                data["valid_word_ids"][at],
                self._chars(data["valid_char_index"][at]),
                (state[0] * keep, state[1] * keep),
            )
            scores = self._model.scores(hidden, data["valid_targets"][at].flatten())
            weights = data["valid_weights"][at].flatten()
            loss -= float((scores * weights).sum())
            words += float(weights.sum())
        return {"loss": loss, "words": words, "seconds": time.perf_counter() - start}


def main() -> None:
    """Answers commands until the input ends."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--job", required=True, help="JSON file of bench/_data.py")
    with open(parser.parse_args().job, encoding="utf-8") as file:
        program = Program(json.load(file))
    print(json.dumps({"ready": f"PyTorch {torch.__version__}"}), flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        answer = getattr(program, command.pop("do"))(**command)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
