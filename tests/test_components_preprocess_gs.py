"""Text in Google Cloud Storage: an emulator of it, in a process of its own, over HTTP."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from apache_beam.internal.gcp.auth import _Credentials
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions
from engine_corpus import CONFIG, contents, write_corpus
from flink_server import free_port
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage
from worker_processes import wait_for

from components.preprocess.inputs.find import fingerprint
from components.preprocess.inputs.listing import find_files
from components.preprocess.main import run
from components.preprocess.sources.blocks import read_blocks
from components.preprocess.sources.files import open_file
from components.preprocess.sources.types import ChangedError
from model.config import DataConfig
from model.errors import InputError

BUCKET = "corpus"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bucket() -> Iterator[Any]:
    """A bucket of an emulator to which this process, and those that it starts, are led."""
    port = free_port()
    command = [sys.executable, "-m", "gcp_storage_emulator", "start", "--in-memory"]
    process = subprocess.Popen(
        [*command, "--host=127.0.0.1", f"--port={port}", f"--default-bucket={BUCKET}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
            # Beam looks for credentials for 25 s, once a process.
            patch.setattr(_Credentials, "_credentials_init", True)
            FileSystems.set_options(PipelineOptions([]))
            client = storage.Client(project="none", credentials=AnonymousCredentials())
            wait_for(lambda: _answers(client), "the emulator")
            yield client.bucket(BUCKET)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _answers(client: storage.Client) -> bool:
    try:
        return client.lookup_bucket(BUCKET, retry=None) is not None
    except OSError:
        return False


def put(bucket: Any, key: str, data: bytes) -> str:
    bucket.blob(key).upload_from_string(data)
    return f"gs://{BUCKET}/{key}"


@pytest.mark.parametrize("pattern", ["", "/*.txt", "/**/*.txt", "/s*", "/sub/d.txt", "/.hidden/*"])
def test_patterns_and_folders_choose_the_same_files_as_here(
    bucket: Any, tmp_path: Path, pattern: str
) -> None:
    names = ("a.txt", "b.md", "sub/d.txt", ".hidden/z.txt", "sub/.y.txt")
    for size, name in enumerate(names, start=1):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)
        put(bucket, f"texts/{name}", path.read_bytes())
    expected = [(file.name, file.size) for file in find_files([f"{tmp_path}{pattern}"])]
    found = find_files([f"gs://{BUCKET}/texts{pattern}"])
    assert [(file.name, file.size) for file in found] == expected


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("gs://nowhere/*.txt", "gs://nowhere/*.txt: there is no bucket nowhere; check the address"),
        ("gs://nowhere/a.txt", "gs://nowhere/a.txt: there is no bucket nowhere; check the address"),
        ("gs://corpus/no*", "no file matches --input 'gs://corpus/no*'; check the path"),
        ("gs://corpus/no", "no file matches --input 'gs://corpus/no'; check the path"),
    ],
)
def test_an_address_that_gives_nothing_is_named(bucket: Any, pattern: str, message: str) -> None:
    with pytest.raises(InputError, match=f"^{re.escape(message)}"):
        find_files([pattern])


def test_what_is_not_installed_is_named(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google_auth_httplib2", None)  # as if it were not there
    message = "support for gs:// is not installed; pip install google-auth-httplib2"
    with pytest.raises(InputError, match=message):
        find_files([f"gs://{BUCKET}/*"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("longer", "it has 306 bytes, not 153"),
        ("shorter", "it has 40 bytes, not 153"),
        ("same", "it was written again"),
        ("removed", "it is gone"),
    ],
)
def test_a_file_that_changes_after_it_was_listed_is_noticed(
    bucket: Any, change: str, message: str
) -> None:
    text = b"Words of a line.\n" * 9
    path = put(bucket, f"{change}.txt", text)
    (file,) = find_files([path])
    before = fingerprint([file])
    with open_file(file.path, size=file.size, modified=file.modified) as opened:
        assert opened.read() == text
    if change == "removed":
        bucket.delete_blob("removed.txt")
    else:
        put(bucket, f"{change}.txt", {"longer": text * 2, "shorter": text[:40]}.get(change, text))
        assert fingerprint(find_files([path])) != before
    with pytest.raises(ChangedError, match=message):
        list(read_blocks(file, DataConfig()))


@pytest.mark.extra
def test_records_are_those_of_the_same_files_here(bucket: Any, tmp_path: Path) -> None:
    texts = write_corpus(tmp_path / "texts")
    run(inputs=[str(texts)], records=str(tmp_path / "here"), config=CONFIG)
    for path in texts.iterdir():
        put(bucket, f"big/{path.name}", path.read_bytes())
    run(
        inputs=[f"gs://{BUCKET}/big"],
        records=str(tmp_path / "there"),
        config=CONFIG,
        beam_workers=2,
    )
    assert contents(tmp_path / "there") == contents(tmp_path / "here")
