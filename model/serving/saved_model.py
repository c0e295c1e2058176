"""The served model: maps raw texts to scores, next words, embeddings and similar words.

The graph contains all processing from bytes to numbers, so loading it does not require this
package. Texts are read in parallel, yet a text's results are bit-identical whatever texts share the
batch (docs/decisions/0016).
"""

from __future__ import annotations

import tensorflow as tf

from model.config import Config
from model.network.joint_model import JointModel
from model.serving.reader import Read, Reading, ServedReader
from model.serving.softmax import ServedSoftmax
from model.serving.text_lanes import offsets
from model.serving.words import ServedWords, by_rows
from model.text.tokenizer import tokenize_texts
from model.text.vocab import DOCUMENT_START, LINE_END, SPECIAL_WORDS, UNK_ID, Vocabulary

SIMILAR_ROWS = 16
"""Words per block when searching for neighbours."""


class ServedModel(tf.Module):
    """A trained model with its vocabulary and tokenizer, for `tf.saved_model.save`."""

    def __init__(
        self,
        model: JointModel,
        *,
        config: Config,
        vocab: Vocabulary,
        precision: str = "float32",
    ):
        """Wraps a trained model and precomputes its table of spelled words.

        Args:
          model: the trained model.
          config: its config.
          vocab: its vocabulary.
          precision: of the table and of the product with all V words, `float32` or `bfloat16`.
        """
        super().__init__(name="charloom")
        self._model = model
        self._config = config
        self._vocabulary = tf.constant(vocab.words)
        self._words = ServedWords(model, vocab, precision=precision)
        self._reader = ServedReader(model, self._words)
        self._softmax = ServedSoftmax(model, precision=precision)
        # Tracked, so that they are saved.
        self.variables_of_model = [variable.value for variable in model.weights]

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="texts")], autograph=False)
    def score(self, texts: tf.Tensor) -> dict[str, tf.Tensor]:
        """Scores texts, each as its own document.

        Args:
          texts: `[N]`.

        Returns:
          log_likelihood `[N]` natural log, words `[N]`, perplexity `[N]` (1 for a text without
          words), tokens `[N, L]` padded with "", word_log_likelihoods `[N, L]` padded with 0,
          unknown `[N, L]` padded with False: True for a word outside the vocabulary, whose
          log-likelihood is that of `<unk>`.
        """
        tokens = tokenize_texts(texts, self._config.data)
        distinct, index = self._distinct(tokens)
        targets = tf.gather(self._words.look_up(distinct), index)
        lengths = tokens.row_lengths()
        # A text's last word is predicted but not read.
        before = tf.concat([[0], index[:-1]], axis=0)[: tf.size(index)]
        stream = tf.where(offsets(lengths) == 0, tf.zeros_like(before), before)

        def take(read: Read) -> tf.Tensor:
            hidden = self._reader.hidden(read.layers[:, -1])
            return self._softmax.log_likelihoods(hidden, tf.gather(targets, read.positions))

        scores = tokens.with_flat_values(
            self._reader.read(Reading(distinct, stream, lengths), take, shape=[])
        )
        sums = tf.reduce_sum(tf.cast(scores, tf.float64), axis=1)
        mean = tf.math.divide_no_nan(sums, tf.cast(lengths, tf.float64))
        return {
            "log_likelihood": tf.cast(sums, tf.float32),
            "words": lengths,
            "perplexity": tf.cast(tf.exp(-mean), tf.float32),
            "tokens": self._shown(tokens).to_tensor(),
            "word_log_likelihoods": scores.to_tensor(),
            "unknown": tokens.with_flat_values(targets == UNK_ID).to_tensor(),
        }

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.string, name="texts"),
            tf.TensorSpec([], tf.int32, name="k"),
        ],
        autograph=False,
    )
    def next_word(self, texts: tf.Tensor, k: tf.Tensor) -> dict[str, tf.Tensor]:
        """Predicts the next word of each text.

        Args:
          texts: `[N]`.
          k: how many words to propose for each.

        Returns:
          words `[N, k]` and probabilities `[N, k]`, likeliest first; excludes `<unk>` and `<s>`, so
          there are at most V - 2.
        """
        reading = self._read_all(tokenize_texts(texts, self._config.data, open_end=True))
        vectors = self._reader.read(
            reading, lambda read: read.layers[:, -1], shape=[self._config.model.output_size]
        )
        last = tf.gather(vectors, tf.cumsum(reading.lengths) - 1)
        words, values = self._softmax.next_words(self._reader.hidden(last), k)
        return {"words": tf.gather(self._vocabulary, words), "probabilities": values}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="texts")], autograph=False)
    def embed(self, texts: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns the output of every LSTM layer after each word.

        Args:
          texts: `[N]`.

        Returns:
          tokens `[N, L]` padded with "", embeddings `[N, L, layers, R]` padded with 0.
        """
        tokens = tokenize_texts(texts, self._config.data)
        reading = self._read_all(tokens)
        config = self._config.model
        vectors = self._reader.read(
            reading, lambda read: read.layers, shape=[config.lstm_layers, config.output_size]
        )
        of_words = tf.boolean_mask(vectors, offsets(reading.lengths) > 0)
        return {
            "tokens": self._shown(tokens).to_tensor(),
            "embeddings": tokens.with_flat_values(of_words).to_tensor(),
        }

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.string, name="words"),
            tf.TensorSpec([], tf.int32, name="k"),
        ],
        autograph=False,
    )
    def similar(self, words: tf.Tensor, k: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns the known words whose spellings are most similar by the char-CNN.

        Args:
          words: `[N]`, one word each; any spelling is allowed. Folded as in texts; what is not one
            word to the tokenizer is taken as it is.
          k: how many to return for each.

        Returns:
          words `[N, k]` and similarities `[N, k]`, cosines of the char-CNN's vectors centred on
          their mean, most similar first; excludes the word itself and special words, so there are
          at most V - 4.
        """
        directions = self._words.directions
        assert directions is not None
        count = int(directions.shape[0])
        known = self._vocabulary[len(SPECIAL_WORDS) : len(SPECIAL_WORDS) + count]
        k = tf.minimum(k, max(count - 1, 0))

        def nearest(block: tf.Tensor, places: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            cosines = tf.matmul(block, directions, transpose_b=True)
            itself = places[:, tf.newaxis] == tf.range(count)[tf.newaxis]
            values, found = tf.math.top_k(tf.where(itself, -2.0, cosines), k)
            return values, found

        words = self._folded(words)
        # Block by block, so that `[N, V]` cosines are never in memory.
        values, found = by_rows(
            nearest,
            self._words.direct(self._words.read(words)),
            self._words.look_up(words) - len(SPECIAL_WORDS),
            rows=SIMILAR_ROWS,
            shape=[k],
            dtype=(tf.float32, tf.int32),
        )
        return {"words": tf.gather(known, found), "similarities": values}

    def _folded(self, words: tf.Tensor) -> tf.Tensor:
        """Returns words `[N]` as they stand in texts."""
        tokens = tokenize_texts(words, self._config.data, open_end=True)
        first = tokens.to_tensor(shape=[None, 1])[:, 0]
        is_word = (tokens.row_lengths() == 1) & (first != LINE_END)
        return tf.where(is_word, first, words)

    def _distinct(self, tokens: tf.RaggedTensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns distinct words `[U]`, the document start first, and the index of each token."""
        distinct, index = tf.unique(tokens.flat_values)
        return tf.concat([[DOCUMENT_START], distinct], axis=0), index + 1

    def _read_all(self, tokens: tf.RaggedTensor) -> Reading:
        """Returns texts, including their document starts, to be read completely."""
        distinct, index = self._distinct(tokens)
        starts = tf.zeros([tokens.nrows(), 1], tf.int32)
        streams = tf.concat([starts, tokens.with_flat_values(index)], axis=1)
        return Reading(distinct, streams.flat_values, streams.row_lengths())

    def _shown(self, tokens: tf.RaggedTensor) -> tf.RaggedTensor:
        mark = tf.constant(SPECIAL_WORDS[0])
        values = tokens.flat_values
        return tokens.with_flat_values(tf.where(values == LINE_END, mark, values))
