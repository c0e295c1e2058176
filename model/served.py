"""The served model: raw texts in, scores, next words and embeddings out.

Everything that a text goes through, from bytes to numbers, is in the graph: nobody
who loads it needs this package. Texts are read one by one, so the numbers of a text
never depend on the texts beside it.
"""

from __future__ import annotations

import tensorflow as tf

from model.config import Config
from model.evaluation import hide_specials
from model.losses import word_log_likelihoods
from model.network import Encoded, JointModel
from model.text import tokenize_text
from model.vocab import (
    BOS_ID,
    CHAR_BEGIN,
    CHAR_BOS,
    CHAR_END,
    CHAR_EOS,
    CHAR_OFFSET,
    LINE_END,
    SPECIAL_WORDS,
    UNK_ID,
    Vocabulary,
)

WINDOW = 32
"""Words read in one go; memory does not grow with the length of a text beyond its results."""

_STRING = tf.RaggedTensorSpec([None], tf.string, ragged_rank=0)
_FLOAT = tf.RaggedTensorSpec([None], tf.float32, ragged_rank=0)


class Stream(tf.experimental.ExtensionType):
    """One text as the model reads it: the document start, then its L words."""

    word_ids: tf.Tensor
    """`[L + 1]`."""
    distinct: tf.Tensor
    """`[U]` ids of the distinct words."""
    char_ids: tf.Tensor
    """`[U, W]` their spellings."""
    index: tf.Tensor
    """`[L + 1]` which of them each word is."""


class ServedModel(tf.Module):
    """A trained model with its vocabulary and tokenizer, for `tf.saved_model.save`."""

    def __init__(self, model: JointModel, *, config: Config, vocab: Vocabulary):
        """Wraps a trained model; nothing is computed yet."""
        super().__init__(name="charloom")
        self._model = model
        self._config = config
        words = list(vocab.ids.items())
        self._ids = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(
                [word for word, _ in words], tf.constant([i for _, i in words], tf.int64)
            ),
            default_value=UNK_ID,
        )
        self._words = tf.constant(vocab.words)
        # Tracked, so that they are saved.
        self.variables_of_model = [variable.value for variable in model.weights]

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="texts")])
    def score(self, texts: tf.Tensor) -> dict[str, tf.Tensor]:
        """Scores texts, each as a document of its own.

        Args:
          texts: `[N]`.

        Returns:
          log_likelihood `[N]` natural log, words `[N]`, perplexity `[N]` (1 for a text
          without words), tokens `[N, L]` padded with "", word_log_likelihoods `[N, L]`
          padded with 0.
        """
        tokens, scores = tf.map_fn(
            self._score_text, texts, fn_output_signature=(_STRING, _FLOAT), parallel_iterations=1
        )
        sums = tf.reduce_sum(tf.cast(scores, tf.float64), axis=1)
        words = tokens.row_lengths()
        mean = tf.math.divide_no_nan(sums, tf.cast(words, tf.float64))
        return {
            "log_likelihood": tf.cast(sums, tf.float32),
            "words": words,
            "perplexity": tf.cast(tf.exp(-mean), tf.float32),
            "tokens": self._shown(tokens).to_tensor(),
            "word_log_likelihoods": scores.to_tensor(),
        }

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.string, name="texts"),
            tf.TensorSpec([], tf.int32, name="k"),
        ]
    )
    def next_word(self, texts: tf.Tensor, k: tf.Tensor) -> dict[str, tf.Tensor]:
        """Continues texts by one word.

        Args:
          texts: `[N]`.
          k: how many words to propose for each.

        Returns:
          words `[N, k]` and probabilities `[N, k]`, likeliest first; `<unk>` and `<s>` are
          left out, so there are V - 2 at most.
        """
        size = len(self._words) - 2  # without <unk> and <s>
        best, values = tf.map_fn(
            lambda text: self._next_of_text(text, tf.minimum(k, size)),
            texts,
            fn_output_signature=(
                tf.TensorSpec([None], tf.int32),
                tf.TensorSpec([None], tf.float32),
            ),
            parallel_iterations=1,
        )
        return {"words": tf.gather(self._words, best), "probabilities": values}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="texts")])
    def embed(self, texts: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns what every LSTM layer makes of every word, having read it.

        Args:
          texts: `[N]`.

        Returns:
          tokens `[N, L]` padded with "", embeddings `[N, L, layers, R]` padded with 0.
        """
        shape = [None, self._config.model.lstm_layers, self._config.model.output_size]
        tokens, vectors = tf.map_fn(
            self._embed_text,
            texts,
            fn_output_signature=(
                _STRING,
                tf.RaggedTensorSpec(shape, tf.float32, ragged_rank=0),
            ),
            parallel_iterations=1,
        )
        return {"tokens": self._shown(tokens).to_tensor(), "embeddings": vectors.to_tensor()}

    def _shown(self, tokens: tf.RaggedTensor) -> tf.RaggedTensor:
        mark = tf.constant(SPECIAL_WORDS[0])
        values = tokens.flat_values
        return tokens.with_flat_values(tf.where(values == LINE_END, mark, values))

    def _score_text(self, text: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        words = tokenize_text(text, self._config.data)
        stream = self._stream(words)
        padded = self._padded(stream.word_ids[1:])
        scores = tf.TensorArray(tf.float32, 0, dynamic_size=True, element_shape=[WINDOW])
        state = self._model.zero_state(1)
        count = tf.shape(padded)[0] // WINDOW
        for index in tf.range(count):
            encoded = self._read(stream, index, state)
            targets = padded[tf.newaxis, index * WINDOW : (index + 1) * WINDOW]
            values = word_log_likelihoods(self._model, encoded.hidden, targets)
            scores = scores.write(index, values[0])
            state = encoded.state
        return words, tf.reshape(scores.stack(), [-1])[: tf.size(words)]

    def _next_of_text(self, text: tf.Tensor, k: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        stream = self._stream(tokenize_text(text, self._config.data, open_end=True))
        length = tf.size(stream.word_ids)
        hidden = tf.zeros([1, self._hidden_size])
        state = self._model.zero_state(1)
        for index in tf.range((length + WINDOW - 1) // WINDOW):
            encoded = self._read(stream, index, state)
            last = tf.minimum(length - 1 - index * WINDOW, WINDOW - 1)
            hidden, state = encoded.hidden[:, last], encoded.state
        probabilities = hide_specials(tf.nn.softmax(self._model.logits(hidden)))[0]
        values, words = tf.math.top_k(probabilities, k)
        return words, values

    def _embed_text(self, text: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        words = tokenize_text(text, self._config.data)
        stream = self._stream(words)
        config = self._config.model
        shape = [WINDOW, config.lstm_layers, config.output_size]
        vectors = tf.TensorArray(tf.float32, 0, dynamic_size=True, element_shape=shape)
        state = self._model.zero_state(1)
        for index in tf.range((tf.size(stream.word_ids) + WINDOW - 1) // WINDOW):
            encoded = self._read(stream, index, state)
            vectors, state = vectors.write(index, encoded.layers[0]), encoded.state
        read = tf.reshape(vectors.stack(), [-1, *shape[1:]])
        return words, read[1 : tf.size(words) + 1]

    @property
    def _hidden_size(self) -> int:
        config = self._config.model
        return config.word_dim if config.tied else config.output_size

    def _read(self, stream: Stream, index: tf.Tensor, state: tf.Tensor) -> Encoded:
        """Reads window number `index` of a stream; a last window is padded."""
        start, stop = index * WINDOW, (index + 1) * WINDOW
        index = self._padded(stream.index)[start:stop]
        return self._model.encode(
            stream.distinct,
            char_ids=stream.char_ids,
            index=tf.reshape(index, [1, WINDOW]),
            state=state,
        )

    @staticmethod
    def _padded(values: tf.Tensor) -> tf.Tensor:
        return tf.pad(values, [[0, -tf.size(values) % WINDOW]])

    def _stream(self, words: tf.Tensor) -> Stream:
        distinct, index = tf.unique(words)
        ids = tf.concat([[BOS_ID], tf.cast(self._ids.lookup(distinct), tf.int32)], axis=0)
        index = tf.concat([[0], index + 1], axis=0)
        start = self._laid_out(tf.constant([[CHAR_BOS]]))
        return Stream(
            word_ids=tf.gather(ids, index),
            distinct=ids,
            char_ids=tf.concat([start, self._spellings(distinct)], axis=0),
            index=index,
        )

    def _spellings(self, words: tf.Tensor) -> tf.Tensor:
        """Spells words as `model.vocab.spell` and `model.batches.spelling_matrix` do."""
        singles = tf.strings.bytes_split(words)
        values = tf.reshape(tf.io.decode_raw(singles.flat_values, tf.uint8), [-1])
        chars = tf.cast(values, tf.int32) + CHAR_OFFSET
        line_end = LINE_END[0] + CHAR_OFFSET  # no word has this byte, only the mark
        chars = tf.where(chars == line_end, CHAR_EOS, chars)
        return self._laid_out(singles.with_flat_values(chars))

    def _laid_out(self, chars: tf.Tensor | tf.RaggedTensor) -> tf.Tensor:
        """Adds begin and end marks and padding: `[N, (n)]` to `[N, W]`."""
        width = self._config.model.max_word_bytes
        ragged = tf.RaggedTensor.from_tensor(chars) if isinstance(chars, tf.Tensor) else chars
        ragged = ragged[:, : width - 2]
        count = ragged.nrows(out_type=tf.int32)
        begin, end = tf.fill([count, 1], CHAR_BEGIN), tf.fill([count, 1], CHAR_END)
        return tf.concat([begin, ragged, end], axis=1).to_tensor(shape=[None, width])
