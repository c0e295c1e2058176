"""The configuration tree: one frozen dataclass per stage, validated, to and from JSON.

No TensorFlow here, so that `charloom --help` and `charloom compile` start at once.

Shape letters used throughout `model/`: B lanes, T steps, W bytes per word, U distinct words, D
word-embedding size, F filters in total, H LSTM size, V words, L words in a document.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

from model.errors import InputError
from model.field_limits import Choices, Range, check_fields, check_range

CONFIG_VERSION = 1
"""Incremented when a field changes its meaning; stored in records and checkpoints."""

TOKENIZERS = ("words", "whitespace", "graphemes")
DOCUMENTS = ("file", "paragraph", "line")
BAD_TEXT = ("error", "skip", "replace")
INPUTS = ("joint", "words", "characters")
CHAR_CNN = ("trained", "frozen")
DROPOUT_MASKS = ("window", "word")
SOFTMAXES = ("full", "sampled")
PRECISIONS = ("float32", "bfloat16")
SCHEDULES = ("cosine", "plateau")
BASELINES = ("unigram", "bigram")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """How raw text becomes records."""

    tokenizer: Annotated[str, Choices(TOKENIZERS)] = "words"
    """`words`: Unicode script boundaries, punctuation apart; `whitespace`: split at white space;
    `graphemes`: as `words`, but each character of a script without spaces is a word
    (docs/decisions/0013)."""
    lowercase: bool = False
    """Case-fold words (NFKC_Casefold) before they are counted and encoded."""
    sentence_marks: bool = True
    """Whether each line end is a word `</s>` that the model predicts."""
    document: Annotated[str, Choices(DOCUMENTS)] = "file"
    """The unit of a document: a `file`, a `paragraph` (ended by a blank line) or a `line`."""
    record_words: Annotated[int, Range(8, 1 << 20)] = 1024
    """Longer documents are cut at line ends into records of about this many words."""
    vocab_size: Annotated[int, Range(8, 1 << 24)] = 16384
    """Maximum vocabulary size, including the three special words."""
    min_count: Annotated[int, Range(1, 1 << 20)] = 2
    """Words seen less often than this in the training split become `<unk>`."""
    valid_fraction: Annotated[float, Range(0.0, 0.5)] = 0.05
    """Share of records held out for validation, chosen by hash of source and position."""
    test_fraction: Annotated[float, Range(0.0, 0.5)] = 0.05
    """Share of records held out for the test, chosen by hash of source and position."""
    shard_megabytes: Annotated[int, Range(1, 1 << 14)] = 64
    """MiB of input per output shard."""
    encoding: str = "utf-8"
    """Text encoding of the input files, by its Python name."""
    on_bad_text: Annotated[str, Choices(BAD_TEXT)] = "error"
    """What to do with a file that is not text: `error`, `skip` it, or `replace` bad bytes with
    U+FFFD."""
    max_stray_bytes: Annotated[float, Range(0.0, 0.1)] = 0.0
    """Share of a file's unpacked bytes that may be undecodable (they become U+FFFD); above it, the
    file is not text."""

    def __post_init__(self) -> None:
        check_fields("data", self)
        try:
            "".encode(self.encoding)
        except (LookupError, UnicodeError):
            raise InputError(
                f"data.encoding is {self.encoding!r}, which Python does not know; try utf-8 or latin-1"
            ) from None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Sizes of the joint char-CNN, word-embedding and LSTM model (Kim et al. 2016)."""

    inputs: Annotated[str, Choices(INPUTS)] = "joint"
    """What the LSTM reads: `joint` (words and characters), `words` or `characters`."""
    char_cnn: Annotated[str, Choices(CHAR_CNN)] = "trained"
    """`trained` end to end with the LSTM, or `frozen` at its random initial values."""
    word_dim: Annotated[int, Range(1, 1 << 14)] = 256
    """D, the size of a word embedding."""
    char_dim: Annotated[int, Range(1, 1 << 10)] = 16
    """Size of a byte embedding."""
    max_word_bytes: Annotated[int, Range(4, 1 << 10)] = 24
    """W, bytes of a word that the CNN sees, including begin and end marks."""
    filter_widths: tuple[int, ...] = (1, 2, 3, 4, 5, 6)
    """Widths, in bytes, of the convolutions."""
    filter_counts: Annotated[tuple[int, ...], Range(1, 1 << 14)] = (25, 50, 75, 100, 125, 150)
    """Filters of each width; their sum is F."""
    highway_layers: Annotated[int, Range(0, 16)] = 1
    """Highway layers (Srivastava et al. 2015) over the pooled filters."""
    lstm_layers: Annotated[int, Range(1, 16)] = 2
    """LSTM layers."""
    lstm_dim: Annotated[int, Range(1, 1 << 14)] = 300
    """H, the size of each LSTM layer."""
    lstm_projection: int = 0
    """Size to which each layer's output is projected (Sak et al. 2014); 0 for no projection."""
    tied: bool = True
    """Use the word embeddings as output weights (Press and Wolf 2017); needs a word embedding."""
    input_dropout: Annotated[float, Range(0.0, 0.9)] = 0.3
    """Dropout rate on each distinct word's vector, one mask per word and step."""
    hidden_dropout: Annotated[float, Range(0.0, 0.9)] = 0.3
    """Dropout rate between LSTM layers."""
    output_dropout: Annotated[float, Range(0.0, 0.9)] = 0.3
    """Dropout rate on the last layer's output."""
    recurrent_dropout: Annotated[float, Range(0.0, 0.9)] = 0.0
    """Dropout rate on recurrent weights, one mask per step (Merity et al. 2018, arXiv
    1708.02182)."""
    dropout_mask: Annotated[str, Choices(DROPOUT_MASKS)] = "window"
    """Hidden and output masks: one per lane and `window` (Gal and Ghahramani 2016), or one per
    `word`."""

    def __post_init__(self) -> None:
        check_fields("model", self)
        check_range("model.lstm_projection", self.lstm_projection, 0, self.lstm_dim)
        if not self.filter_widths or len(self.filter_widths) != len(self.filter_counts):
            raise InputError(
                f"model.filter_widths has {len(self.filter_widths)} entries and model.filter_counts "
                f"{len(self.filter_counts)}; they must be of the same length, at least 1"
            )
        for at, width in enumerate(self.filter_widths):
            if width in self.filter_widths[:at]:  # both would be saved under one name
                raise InputError(
                    f"model.filter_widths has {width} twice; name it once, with both "
                    "model.filter_counts added up, which is the same model"
                )
            check_range("model.filter_widths", width, 1, self.max_word_bytes)
        if self.tied and self.inputs == "characters":
            raise InputError(
                "model.tied needs a word embedding, and model.inputs is 'characters'; "
                "add --set model.tied=false"
            )

    @property
    def output_size(self) -> int:
        """R, the size of an LSTM layer's output."""
        return self.lstm_projection or self.lstm_dim


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How the model is trained."""

    lanes: Annotated[int, Range(1, 1 << 30)] = 32
    """B, lanes of the global batch over all workers; each lane reads its own text."""
    window: Annotated[int, Range(1, 1 << 30)] = 32
    """T, words per lane and step (truncated back-propagation through time)."""
    steps: Annotated[int, Range(1, 1 << 30)] = 1000
    """Total training steps."""
    learning_rate: Annotated[float, Range(1e-9, 10.0)] = 2e-3
    """Peak learning rate of AdamW (Loshchilov and Hutter 2019)."""
    warmup_steps: Annotated[int, Range(0, 1 << 30)] = 50
    """Steps of linear warm-up to the peak."""
    schedule: Annotated[str, Choices(SCHEDULES)] = "cosine"
    """After the warm-up: `cosine` decay to 1 %, or `plateau`: halve after each validation pass
    without improvement."""
    softmax: Annotated[str, Choices(SOFTMAXES)] = "full"
    """Training loss: `full` softmax, or `sampled` (Jean et al. 2015); evaluation always uses the
    full one."""
    sampled_words: Annotated[int, Range(1, 1 << 20)] = 2048
    """Distinct negatives of the sampled softmax."""
    rare_targets: Annotated[float, Range(0.0, 0.5)] = 0.0
    """Share of targets replaced by words with fewer than `rare_count` training occurrences."""
    rare_count: Annotated[int, Range(1, 1 << 20)] = 3
    """Such words replace targets in proportion to how far their count falls short of this."""
    precision: Annotated[str, Choices(PRECISIONS)] = "float32"
    """Precision of large matrix products; variables are always float32."""
    reduce_precision: Annotated[str, Choices(("auto", *PRECISIONS))] = "auto"
    """Precision of gradients in the all-reduce; `auto`: as `precision`, between workers only."""
    average_last: Annotated[float, Range(0.0, 1.0)] = 0.0
    """Share of the steps, at the end, over which the weights are averaged (Izmailov et al.
    2018)."""
    patience: Annotated[int, Range(0, 1 << 20)] = 0
    """Validation passes without improvement after which training ends; 0: never."""
    weight_decay: Annotated[float, Range(0.0, 1.0)] = 0.01
    """Decoupled weight decay of matrices; not applied to biases."""
    clip_norm: Annotated[float, Range(1e-6, 1e6)] = 1.0
    """Global norm to which the gradient is clipped."""
    seed: Annotated[int, Range(0, (1 << 31) - 1)] = 1
    """Seed of the initial weights, the dropout masks and the order of records."""
    deterministic: bool = False
    """Use only deterministic ops on GPUs, which are slower; without it two trainings on GPUs differ
    in the last bits. CPUs give the same bits either way."""
    log_steps: Annotated[int, Range(1, 1 << 30)] = 20
    """Steps between two lines of metrics."""
    valid_steps: Annotated[int, Range(1, 1 << 30)] = 200
    """Steps between two passes over the validation split."""
    checkpoint_steps: Annotated[int, Range(1, 1 << 30)] = 100
    """Steps between two checkpoints."""
    keep_checkpoints: Annotated[int, Range(2, 1 << 10)] = 3
    """How many of the newest whole checkpoints to keep, besides the best and the newest good
    one."""

    def __post_init__(self) -> None:
        check_fields("train", self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GateConfig:
    """What a model must achieve to be exported."""

    max_perplexity: Annotated[float, Range(1.0, 1e12)] = 1000.0
    """Test perplexity above which the model is rejected."""
    max_unknown_rate: Annotated[float, Range(0.0, 1.0)] = 0.5
    """Share of unknown test words above which the model is rejected: predicting `<unk>` is easy."""
    beat: Annotated[tuple[str, ...], Choices(BASELINES)] = BASELINES
    """Baselines on the same records whose perplexity the model must not exceed."""
    tolerance: Annotated[float, Range(0.0, 1.0)] = 0.005
    """Non-inferiority margin: largest relative perplexity increase over the champion at the upper
    confidence limit."""
    max_drift: Annotated[float, Range(0.0, 1.0)] = 0.02
    """The same margin relative to the best version so far, however many champions came since. Its
    interval is adjusted for a hundred comparisons."""
    require_improvement: bool = False
    """Reject a model that is not significantly better than the champion."""
    confidence: Annotated[float, Range(0.5, 0.9999)] = 0.95
    """Level of the two-sided confidence interval of the difference from the champion."""
    min_units: Annotated[int, Range(5, 1_000_000)] = 5
    """Minimum number of source files in the test text, as if of equal size, for a comparison."""
    min_test_words: Annotated[int, Range(1, 1 << 40)] = 100
    """Minimum number of test words unseen by all models of a comparison for a verdict."""
    max_slice_loss: Annotated[float, Range(0.0, 1e6)] = 0.05
    """Largest relative perplexity increase over the champion allowed on a slice of the words; only
    a significant excess fails."""

    def __post_init__(self) -> None:
        check_fields("gate", self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """The whole configuration of a run; written as JSON next to everything made with it."""

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    gate: GateConfig = dataclasses.field(default_factory=GateConfig)


def to_dict(config: Any) -> dict[str, Any]:
    """Returns a config dataclass as plain JSON values."""
    return {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config)}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    return list(value) if isinstance(value, tuple) else value


def to_json(config: Config) -> str:
    """Returns `config` as JSON text, with the config version."""
    return json.dumps({"config_version": CONFIG_VERSION, **to_dict(config)}, indent=2) + "\n"


def from_json(text: str, *, source: str = "config") -> Config:
    """Reads what `to_json` wrote.

    Args:
      text: JSON text.
      source: name of the file, for messages.

    Raises:
      InputError: invalid JSON, another config version, an unknown field or a bad value.
    """
    try:
        values = json.loads(text)
    except ValueError as error:
        raise InputError(f"{source} is not JSON ({error}); make it again") from None
    if not isinstance(values, dict):
        raise InputError(f"{source} is not a JSON object; make it again")
    check_version(values.pop("config_version", None), source=source)
    config: Config = from_dict(Config, values, source=source)
    return config


def read_config(path: str) -> Config:
    """Reads a file that holds the output of `to_json`.

    Raises:
      InputError: as `from_json`, or the file can't be read.
    """
    try:
        with open(path, encoding="utf-8") as file:
            return from_json(file.read(), source=path)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8 text; make it again") from None


def check_version(version: object, *, source: str) -> None:
    """Raises InputError unless `version` is `CONFIG_VERSION`."""
    if version != CONFIG_VERSION:
        raise InputError(
            f"{source} was made with config version {version}, but this charloom reads version "
            f"{CONFIG_VERSION}; run the stage that wrote it again"
        )


def from_dict(cls: type[Any], values: Mapping[str, Any], *, source: str, path: str = "") -> Any:
    """Builds a config dataclass from plain JSON values; the inverse of `to_dict`.

    Raises:
      InputError: an unknown field or a value of the wrong type or range.
    """
    hints = get_type_hints(cls)
    arguments: dict[str, Any] = {}
    for name, value in values.items():
        if name not in hints:
            raise InputError(f"{source} has an unknown field {path}{name}{_nearest(path + name)}")
        hint = hints[name]
        if dataclasses.is_dataclass(hint):
            if not isinstance(value, Mapping):
                raise InputError(f"{source}: {path}{name} is not a section")
            arguments[name] = from_dict(hint, value, source=source, path=f"{path}{name}.")  # type: ignore[arg-type]
        else:
            arguments[name] = _typed(value, hint, f"{path}{name}")
    return cls(**arguments)


def _typed(value: Any, hint: Any, name: str) -> Any:
    """Returns a JSON value as the field's type; raises InputError if it has another type."""
    if get_origin(hint) is tuple:
        item = get_args(hint)[0]
        if isinstance(value, str) or not isinstance(value, Sequence):
            value = [value]
        return tuple(_typed(one, item, name) for one in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not hint:
        kind = {int: "a whole number", float: "a number", bool: "true or false", str: "a string"}[
            hint
        ]
        raise InputError(f"{name} is {value!r}; it must be {kind}")
    return value


def field_names(tree: type[Config] = Config) -> list[str]:
    """Returns all field names as `section.field`."""
    hints = get_type_hints(tree)
    return [
        f"{section}.{field.name}"
        for section, cls in hints.items()
        for field in dataclasses.fields(cls)
    ]


def _nearest(name: str, tree: type[Config] = Config) -> str:
    names = field_names(tree)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if not near:  # the section is missing
        near = [known for known in names if known.split(".")[1] == name.split(".")[-1]]
    return f"; did you mean {' or '.join(near)}?" if near else ""


Tree = TypeVar("Tree", bound=Config)


def with_overrides(config: Tree, settings: Sequence[str], *, source: str = "--set") -> Tree:
    """Returns `config` with single fields replaced.

    Args:
      config: the config to start from; a subclass may have more sections.
      settings: `section.field=value` strings; the value is JSON or bare text, a tuple `1,2,3`.
      source: where the settings come from, for messages.

    Raises:
      InputError: an unknown field (with the nearest names) or a bad value.
    """
    values = to_dict(config)
    for setting in settings:
        name, equals, text = setting.partition("=")
        name = name.strip()
        if not equals:
            raise InputError(f"{source} {setting!r} has no '='; write it as train.steps=500")
        if name not in field_names(type(config)):
            near = _nearest(name, type(config))
            raise InputError(f"{source} names an unknown field {name!r}{near}")
        section, field = name.split(".")
        values[section][field] = _parse(text, get_type_hints(type(getattr(config, section)))[field])
    built: Tree = from_dict(type(config), values, source=source)
    return built


def _parse(text: str, hint: Any) -> Any:
    if hint is str:
        return text
    if get_origin(hint) is tuple:
        inner = text.strip("[]() ")
        if get_args(hint)[0] is str:
            return [part.strip(" \"'") for part in inner.split(",") if part.strip()]
        text = f"[{inner}]"
    with contextlib.suppress(ValueError):
        return json.loads(text.lower() if hint is bool else text)
    with contextlib.suppress(ValueError):
        return float(text) if hint is float else text  # .5 is not JSON
    return text
