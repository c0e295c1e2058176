"""The process of one loaded version: answers requests that the server passes on.

TensorFlow never gives back the memory of a model, so each version has a process of its own, which
the server ends when the version is no longer needed.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Generator, Iterator
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from components.quiet_tensorflow import import_tensorflow
from components.serve.messages import Answer, Ask, Cancel, Failed, Ready
from components.serve.requests import HttpError, parse_question
from components.serve.work_queue import Job, Step, WorkQueue
from model.errors import InputError

if TYPE_CHECKING:
    from components.serve.loaded import LoadedVersion
    from components.serve.word_counter import WordCounter

log = logging.getLogger(__name__)

BYTES_PER_COST = 4096
"""Bytes of a body that are parsed in about the time in which a word is read."""
CHARACTERS_PER_COST = 128
"""The same of characters whose words are counted."""
VALUES_PER_COST = 256
"""The same of values that are encoded."""
LEARNED_WORDS = 256
"""Least words of a call that tells how fast the model reads."""
LIGHT_VALUES = 1 << 14
"""Most values of an answer that is encoded at once, so that none of its kind waits in memory."""
ENTRY_COST = 64
"""Cost of a word to find neighbours for."""


def main() -> None:
    """Loads a version and answers until the server ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("version")
    parser.add_argument("--connection", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--request-seconds", type=float, required=True)
    options = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to the whole group: the server decides
        signal.signal(number, signal.SIG_IGN)
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(message)s", force=True
    )
    worker = Worker(Connection(options.connection), request_seconds=options.request_seconds)
    reader = threading.Thread(target=worker.read, name="reader", daemon=True)
    reader.start()
    if worker.load(options.version, threads=options.threads):
        reader.join()


class Worker:
    """Answers what arrives over a connection."""

    def __init__(self, connection: Connection, *, request_seconds: float):
        """Takes the connection to the server, and how long it waits for an answer."""
        self._connection = connection
        self._request_seconds = request_seconds
        self._sending = threading.Lock()
        self._jobs: dict[int, Job] = {}
        self._queue: WorkQueue
        self._answerer: Answerer

    def load(self, path: str, *, threads: int) -> bool:
        """Loads a version and reports it to the server; returns whether it can be loaded."""
        try:
            import_tensorflow()
            from components.serve.loaded import LoadedVersion
            from components.serve.word_counter import WordCounter

            version = LoadedVersion(path)
            self._answerer = Answerer(
                version, WordCounter(path), request_seconds=self._request_seconds
            )
        except (InputError, OSError) as error:
            self._send(Failed(str(error)))
            return False
        except Exception as error:
            log.exception("loading %s", path)
            self._send(Failed(f"{path} can't be loaded ({type(error).__name__}: {error})"))
            return False
        self._queue = WorkQueue(threads)
        inputs = {name: version.inputs(name) for name in version.signatures}
        outputs = {name: version.outputs(name) for name in version.signatures}
        self._send(Ready(version.number, version.digest, version.load_seconds, inputs, outputs))
        return True

    def read(self) -> None:
        """Reads requests until the server is gone; then ends the process, whatever it does."""
        while True:
            try:
                message = self._connection.recv()
            except (EOFError, OSError):
                os._exit(0)
            if isinstance(message, Ask):
                job = Job(self._answer(message))
                self._jobs[message.number] = job
                self._queue.put(job, Step(len(message.body) // BYTES_PER_COST))
            elif isinstance(message, Cancel) and (found := self._jobs.pop(message.number, None)):
                found.cancel()

    def _answer(self, ask: Ask) -> Iterator[Step]:
        try:
            answer = yield from self._answerer.steps(ask)
        except HttpError as error:
            answer = Answer(ask.number, error.status, str(error).encode())
        except Exception:
            log.exception("answering a request")
            answer = Answer(ask.number, 500, b"the server failed; see its log")
        if self._jobs.pop(ask.number, None):
            self._send(answer)

    def _send(self, message: Any) -> None:
        with self._sending:
            try:
                self._connection.send(message)
            except OSError:  # the server is gone
                os._exit(0)


class ReadingSpeed:
    """Refuses calls that can't end in time: nothing can end them once they have begun."""

    def __init__(self, request_seconds: float):
        """Takes how long the server waits for an answer."""
        self._request_seconds = request_seconds
        self._seconds_per_word = 0.0
        """The least that any large call has taken; 0: there was none."""

    def learn(self, words: int, seconds: float) -> None:
        """Notes what a call has taken."""
        if words >= LEARNED_WORDS:
            found = seconds / words
            self._seconds_per_word = min(self._seconds_per_word or found, found)

    def check(self, words: int) -> None:
        """Raises HttpError if a call would take too long even at the best speed seen."""
        if words * self._seconds_per_word > self._request_seconds:
            most = int(self._request_seconds / self._seconds_per_word)
            raise HttpError(
                400,
                f"a text has {words:,} words; this model reads at most {most:,} of one text in "
                f"{self._request_seconds:g} s (--request-seconds)",
            )


class Answerer:
    """Answers one request after the other, in steps."""

    def __init__(self, version: LoadedVersion, counter: WordCounter, *, request_seconds: float):
        """Takes the version to ask, and how long the server waits for an answer."""
        self._version = version
        self._counter = counter
        self._speed = ReadingSpeed(request_seconds)

    def steps(self, ask: Ask) -> Generator[Step, None, Answer]:
        """Answers a request; yields each further step before it takes it.

        Raises:
          HttpError: the request is wrong or too large.
        """
        from components.serve.encoding import encode_answer
        from components.serve.slices import (
            SLICE_WORDS,
            check_values,
            check_words,
            count_values,
            cut,
            join,
        )

        question = parse_question(ask.body, self._version)
        outputs = self._version.outputs(question.signature)
        texts = question.inputs.get("texts")
        if texts is None:
            words = [ENTRY_COST] * question.size
        else:
            if cost := sum(map(len, texts)) // CHARACTERS_PER_COST:
                yield Step(cost)
            words = self._counter.count(texts)
            check_words(words)
        values = count_values(question, max(words), outputs)
        check_values(values)
        parts = []
        heavy = sum(words) > SLICE_WORDS or values > LIGHT_VALUES
        for one in cut(question, words):
            yield Step(one.words, heavy)
            self._speed.check(one.words)
            started = time.monotonic()
            parts.append(self._version.ask(question.signature, one.inputs))
            self._speed.learn(one.words, time.monotonic() - started)
        arrays = join(parts)
        del parts
        if heavy:
            yield Step(values // VALUES_PER_COST, heavy)
        body = bytearray()
        for piece in encode_answer(question, arrays):
            body += piece.encode()
        return Answer(ask.number, 200, bytes(body), question.signature, question.size)


if __name__ == "__main__":
    main()
