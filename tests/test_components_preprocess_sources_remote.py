"""Text in S3: moto's server, in a process of its own, over HTTP."""

from __future__ import annotations

import bz2
import gzip
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.utils import retry
from engine_corpus import CONFIG, contents, write_corpus
from flink_server import free_port
from s3_server import BUCKET, S3Server, run_s3_server
from volume import keep_first

from components.preprocess.inputs.listing import find_files
from components.preprocess.main import run
from components.preprocess.sources.blocks import BLOCK_BYTES, read_blocks
from components.preprocess.sources.files import open_file
from components.preprocess.sources.types import ChangedError, UnsteadyError
from model.config import Config, DataConfig, to_json
from model.errors import EXIT_RESTARTABLE, InputError, RestartableError

SMALL = DataConfig(record_words=20, valid_fraction=0, test_fraction=0)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with run_s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def s3(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The server with an empty bucket, and this process led to it."""
    for name, value in {**server.environment, "AWS_MAX_ATTEMPTS": "1"}.items():
        monkeypatch.setenv(name, value)
    FileSystems.set_options(PipelineOptions([]))  # and so a new client
    server.faults.unlink(missing_ok=True)
    client = server.client()
    client.create_bucket(Bucket=BUCKET)
    while listed := client.list_objects_v2(Bucket=BUCKET).get("Contents"):
        for one in listed:
            server.delete(one["Key"])
    server.requests()
    return server


def names_of(*inputs: str) -> list[tuple[str, int]]:
    return [(file.name, file.size) for file in find_files(inputs)]


def read(path: str) -> bytes:
    (file,) = find_files([path])
    with open_file(file.path, size=file.size, modified=file.modified) as opened:
        return opened.read()


# Which files


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        "/",
        "/*",
        "/*.txt",
        "/**",
        "/**/*.txt",
        "/**/",
        "/*/",
        "/a*",
        "/[ab].txt",
        "/[!a].txt",
        "/?.txt",
        "/sub/**/d.txt",
        "/s*/*.txt",
        "/**/deep/*",
        "/.hidden",
        "/.hidden/*.txt",
        "/.hid*",
        "/sub/.*",
        "/sub",
        "/a.txt",
    ],
)
def test_patterns_and_folders_choose_the_same_files_as_here(
    s3: S3Server, tmp_path: Path, pattern: str
) -> None:
    names = ("a.txt", "b.txt", "c.md", "ab/x.txt", "sub/c.txt", "sub/deep/d.txt", "sub/.y.txt")
    for size, name in enumerate((*names, ".hidden/z.txt", ".top.txt", "sub/.deep/e.txt"), start=1):
        path = tmp_path / "texts" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)
    s3.put_folder(tmp_path)
    s3.put("texts2/other.txt", b"x")
    expected = names_of(f"{tmp_path}/texts{pattern}")
    assert expected
    assert names_of(f"s3://{BUCKET}/texts{pattern}") == expected


def test_names_that_no_file_here_could_have(s3: S3Server) -> None:
    for size, key in enumerate(("a//b.txt", "a/b.txt", "a/ü ?.txt", "a/", "a/[1].txt"), start=1):
        s3.put(key, b"x" * size)
    expected = [("/b.txt", 1), ("[1].txt", 5), ("b.txt", 2), ("ü ?.txt", 3)]
    assert names_of(f"s3://{BUCKET}/a") == expected
    below = sorted((f"a/{name}", size) for name, size in expected)
    assert names_of(f"s3://{BUCKET}") == names_of(f"s3://{BUCKET}/") == below
    for name, size in (("[1].txt", 5), ("ü ?.txt", 3)):
        assert names_of(f"s3://{BUCKET}/a/{name}") == [(name, size)]


def test_what_charloom_made_is_not_text_in_a_store(s3: S3Server) -> None:
    for key in ("t/a.txt", "t/records/vocab.txt", "t/records/COMPLETED", "t/records/sub/b.txt"):
        s3.put(key, b"x")
    for pattern in ("t", "t/**", "t/**/*.txt", "*"):
        found = names_of(f"s3://{BUCKET}/{pattern}")
        assert [name.removeprefix("t/") for name, _ in found] == ["a.txt"]
    with pytest.raises(InputError, match="no file matches --input"):
        find_files([f"s3://{BUCKET}/t/records"])


def test_two_buckets_are_one_place(s3: S3Server) -> None:
    s3.put("one.txt", b"1")
    s3.put("two.txt", b"22", bucket="more")
    inputs = ["s3://more/*", f"s3://{BUCKET}/one.txt"]
    assert names_of(*inputs) == [("one.txt", 1), ("two.txt", 2)]
    by_bucket = [file.name for file in find_files(inputs, source_root="s3://")]
    assert by_bucket == [f"{BUCKET}/one.txt", "more/two.txt"]


def test_a_list_in_the_store_names_files_in_the_store(s3: S3Server) -> None:
    s3.put("texts/a.txt", b"a")
    s3.put("list.gz", gzip.compress(f"# all\ns3://{BUCKET}/texts/*.txt\n".encode()))
    assert names_of(f"@s3://{BUCKET}/list.gz") == [("a.txt", 1)]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("s3://nowhere/a.txt", "s3://nowhere/a.txt: there is no bucket nowhere; check the address"),
        ("s3://nowhere/*.txt", "s3://nowhere/*.txt: there is no bucket nowhere; check the address"),
        ("s3://corpus/a.txt", "no file matches --input 's3://corpus/a.txt'; check the path"),
        ("s3://corpus/*.txt", "no file matches --input 's3://corpus/*.txt'; check the path"),
        (
            "s3://c*/a.txt",
            "'s3://c*/a.txt' is not an address of files in a bucket; write it as s3://",
        ),
        ("s3:///a.txt", "'s3:///a.txt' is not an address of files in a bucket; write it as s3://"),
        ("http://x/y.txt", "http://x/y.txt: http:// can't be read; copy the text to a folder"),
        ("@s3://corpus/list", "--input @s3://corpus/list: the list can't be read (it is gone); "),
    ],
)
def test_an_address_that_gives_nothing_is_named(s3: S3Server, pattern: str, message: str) -> None:
    with pytest.raises(InputError, match=f"^{re.escape(message)}"):
        find_files([pattern])


def test_text_here_and_in_a_store_has_no_common_folder(s3: S3Server, corpus: Path) -> None:
    s3.put("a.txt", b"x")
    with pytest.raises(InputError, match="partly local and partly in an object store"):
        find_files([str(corpus), f"s3://{BUCKET}"])


# A store that does not answer as it should


def test_without_credentials_nothing_is_asked(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    said = "Unable to locate credentials"
    for pattern in ("a.txt", "*.txt"):
        with pytest.raises(InputError, match=f"can't be listed \\({said}\\); check the endpoint"):
            find_files([f"s3://{BUCKET}/{pattern}"])
    with (  # as in a worker on another machine
        pytest.raises(PermissionError, match=said),
        open_file(f"s3://{BUCKET}/a.txt", size=5, modified=0) as file,
    ):
        file.read()
    assert s3.requests() == []


def test_an_endpoint_where_nobody_answers(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    said = r"can't be (listed|read) for now \(Could not connect to the endpoint URL.*run "
    for pattern in ("*", "a.txt"):
        with pytest.raises(RestartableError, match=rf"^s3://corpus/.* {said}it again$"):
            find_files([f"s3://{BUCKET}/{pattern}"])
    with pytest.raises(RestartableError, match=rf"^--train @s3://corpus/l: .* {said}the command "):
        find_files(train=[f"@s3://{BUCKET}/l"])


def test_an_endpoint_that_is_no_address(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "nonsense")
    said = r"^s3://corpus/\* can't be listed \(Invalid endpoint: nonsense"
    with pytest.raises(InputError, match=said):
        find_files([f"s3://{BUCKET}/*"])


@pytest.mark.parametrize("error", ["400 ExpiredToken", "403 RequestTimeTooSkewed"])
def test_what_passes_is_not_a_fault_of_the_input(s3: S3Server, error: str) -> None:
    s3.put("list", f"s3://{BUCKET}/a.txt\n".encode())
    (file,) = find_files([s3.put("a.txt", b"Words of a line.\n" * 9)])
    s3.fail("*", "*", error, times=1000)
    said = error.split()[1]
    for pattern in ("*", "a.txt"):
        with pytest.raises(
            RestartableError, match=rf"can't be listed for now .*{said}.* run it again"
        ):
            find_files([f"s3://{BUCKET}/{pattern}"])
    with pytest.raises(RestartableError, match="@s3://corpus/list: the list can't be read for now"):
        find_files([f"@s3://{BUCKET}/list"])
    with pytest.raises(UnsteadyError, match=said):
        list(read_blocks(file, SMALL))


def test_credentials_that_expire_end_a_run_that_can_be_repeated(
    s3: S3Server, tmp_path: Path
) -> None:
    s3.put("a.txt", b"Words of a line.\n" * 9)
    s3.fail("GET", f"/{BUCKET}/a.txt", "400 ExpiredToken", times=4)
    records = str(tmp_path / "records")
    with pytest.raises(
        RestartableError, match=r"a\.txt can't be read for now .*ExpiredToken"
    ) as end:
        run(inputs=[f"s3://{BUCKET}/*"], records=records, config=SMALL)
    assert end.value.exit_code == EXIT_RESTARTABLE
    assert run(inputs=[f"s3://{BUCKET}/*"], records=records, config=SMALL)["input"]["files"] == 1


@pytest.mark.parametrize("error", ["400 InvalidToken", "403 InvalidAccessKeyId", "400"])
def test_what_does_not_pass_is_refused_at_once(s3: S3Server, error: str) -> None:
    s3.put("a.txt", b"x")
    s3.fail("*", "*", error, times=1000)
    for pattern in ("*", "a.txt"):
        with pytest.raises(InputError, match=r"can't be listed .*what the credentials allow"):
            find_files([f"s3://{BUCKET}/{pattern}"])


def test_a_store_that_is_busy_can_be_asked_again(s3: S3Server) -> None:
    s3.put("a.txt", b"x")
    s3.fail("GET", f"/{BUCKET}", "503")
    with pytest.raises(RestartableError, match=r"s3://corpus/\* can't be listed for now .*503"):
        find_files([f"s3://{BUCKET}/*"])
    assert names_of(f"s3://{BUCKET}/*") == [("a.txt", 1)]


def test_a_store_that_refuses(s3: S3Server) -> None:
    s3.put("a.txt", b"x")
    s3.fail("HEAD", f"/{BUCKET}/a.txt", "403")
    with pytest.raises(InputError, match=r"a\.txt can't be listed .*Forbidden.* credentials allow"):
        find_files([f"s3://{BUCKET}/a.txt"])
    (file,) = find_files([f"s3://{BUCKET}/a.txt"])
    s3.fail("GET", f"/{BUCKET}/a.txt", "403", times=3)
    with pytest.raises(PermissionError, match="Forbidden"):
        read(file.path)


@pytest.mark.parametrize(("scheme", "package"), [("s3", "boto3"), ("az", "'apache-beam[azure]'")])
def test_what_is_not_installed_is_named(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch, scheme: str, package: str
) -> None:
    monkeypatch.setitem(
        sys.modules, "components.preprocess.sources.s3", None
    )  # as if boto3 were not there
    message = f"{scheme}://x/a/*: support for {scheme}:// is not installed; pip install {package}"
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        find_files([f"{scheme}://x/a/*"])


# Reading


@pytest.mark.parametrize(
    ("ending", "pack"),
    [
        ("", bytes),
        (".gz", gzip.compress),
        (".bz2", bz2.compress),
        (".zst", zstandard.ZstdCompressor().compress),
    ],
)
def test_files_are_read_as_they_are(s3: S3Server, ending: str, pack: type[bytes]) -> None:
    data = os.urandom(5 << 19)
    path = s3.put(f"a{ending}", pack(data))
    assert read(path) == data


def test_a_stream_has_offsets(s3: S3Server) -> None:
    path = s3.put("a", bytes(range(100)))
    with open_file(path) as file:
        assert (file.seek(90), file.tell(), file.read(4)) == (90, 90, bytes(range(90, 94)))
        assert (file.seek(-2, io.SEEK_END), file.read(9), file.read(9)) == (98, b"bc", b"")


def test_a_block_is_one_request_for_its_bytes_and_one_that_it_did_not_change(s3: S3Server) -> None:
    line = b"some words of a line of this text\n"
    data = line * (20 * BLOCK_BYTES // 8 // len(line))  # 2.5 blocks
    path = s3.put("big.txt", data)
    s3.requests()
    (file,) = find_files([path])
    assert s3.requests() == [("HEAD", f"/{BUCKET}/big.txt", "")]
    blocks = [one for k in range(3) for one in read_blocks(file, SMALL, first=k, last=k + 1)]
    assert b"".join(block.data for block in blocks) == data
    tail = 65537
    begins = [0, BLOCK_BYTES - tail, 2 * BLOCK_BYTES - tail]
    assert s3.requests() == [
        request
        for begin in begins
        for request in (
            ("GET", f"/{BUCKET}/big.txt", f"bytes={begin}-"),
            ("HEAD", f"/{BUCKET}/big.txt", ""),
        )
    ]
    assert len(list(read_blocks(file, SMALL))) == 3
    assert [(method, span) for method, _, span in s3.requests()] == [
        ("GET", "bytes=0-"),
        ("HEAD", ""),
    ]


def test_a_connection_that_is_cut_is_taken_up_again(s3: S3Server) -> None:
    data = os.urandom(3 << 20)
    path = s3.put("a", data)
    s3.fail("GET", f"/{BUCKET}/a", "cut")
    s3.requests()
    assert read(path) == data
    spans = [span for method, _, span in s3.requests() if method == "GET"]
    assert len(spans) == 2
    assert spans[0] == "bytes=0-"
    assert 0 < int(spans[1][len("bytes=") : -1]) <= len(data) // 2


def test_a_store_that_is_gone_for_good_is_asked_for_minutes(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = s3.put("a", b"x")
    (file,) = find_files([path])
    slept: list[float] = []
    monkeypatch.setattr(retry.Clock, "sleep", lambda _, seconds: slept.append(seconds))
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    FileSystems.set_options(PipelineOptions([]))
    with (
        pytest.raises(UnsteadyError, match="Could not connect to the endpoint URL"),
        open_file(file.path, size=1, modified=file.modified) as opened,
    ):
        opened.read()
    assert len(slept) == 7
    assert 5 * 127 / 2 < sum(slept) <= 5 * 127


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("longer", "it has 306 bytes, not 153"),
        ("shorter", "it has become shorter"),
        ("later", "it was written again"),
        ("removed", "it is gone"),
        ("damaged.gz", "it has 306 bytes, not "),
    ],
)
def test_a_file_that_changes_after_it_was_listed_is_noticed(
    s3: S3Server, change: str, message: str
) -> None:
    key = f"a.{change}"
    text = b"Words of a line.\n" * 9
    path = s3.put(key, gzip.compress(text) if key.endswith(".gz") else text)
    (file,) = find_files([path])
    if change == "removed":
        s3.delete(key)
    elif change == "later":
        while find_files([path])[0].modified == file.modified:  # S3 knows whole seconds
            s3.put(key, text)
    else:
        s3.put(key, text[:60] if change == "shorter" else text * 2)
    with pytest.raises(ChangedError, match=message):
        list(read_blocks(file, SMALL))


# The stage


@pytest.mark.slow
@pytest.mark.parametrize("endpoint", keep_first(["environment", "option"]))
def test_records_are_those_of_the_same_files_here(
    s3: S3Server, tmp_path: Path, endpoint: str
) -> None:
    texts = write_corpus(tmp_path / "texts")
    (texts / "cyrillic.txt.zst").write_bytes(
        zstandard.ZstdCompressor().compress((texts / "cyrillic.txt").read_bytes())
    )
    run(inputs=[str(texts)], records=str(tmp_path / "here"), config=CONFIG, beam_workers=1)
    address = s3.put_folder(tmp_path / "texts", prefix="some/texts/")
    environment = {**os.environ, **s3.environment}
    options = []
    if endpoint == "option":
        del environment["AWS_ENDPOINT_URL"]
        options = [f"--beam-options=--s3_endpoint_url={s3.url}"]
    (tmp_path / "config.json").write_text(to_json(Config(data=CONFIG)))
    done = prepare(
        f"{address}/**",
        str(tmp_path / "there"),
        f"--config={tmp_path / 'config.json'}",
        "--beam-workers=2",
        *options,
        environment=environment,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert contents(tmp_path / "there") == contents(tmp_path / "here")


def prepare(
    pattern: str, records: str, *more: str, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipelines.cli.main", "prepare", f"--input={pattern}"]
    return subprocess.run(
        [*command, f"--records={records}", *more],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("action", keep_first(["replace", "delete"]))
def test_the_same_command_can_be_run_again_after_a_change(
    s3: S3Server, tmp_path: Path, action: str
) -> None:
    for name in "ab":
        s3.put(f"{name}.txt", b"Words of a line.\n" * 9)
    s3.fail("GET", f"/{BUCKET}", f"{action} b.txt")
    records = str(tmp_path / "records")
    with pytest.raises(RestartableError) as caught:
        run(inputs=[f"s3://{BUCKET}/*"], records=records, config=SMALL)
    changed = {"replace": "it has become shorter", "delete": "it is gone"}[action]
    assert str(caught.value) == (
        f"s3://corpus/b.txt has changed since it was listed ({changed}); run the command again"
    )
    assert caught.value.exit_code == EXIT_RESTARTABLE
    assert list(tmp_path.iterdir()) == []
    info = run(inputs=[f"s3://{BUCKET}/*"], records=records, config=SMALL)
    assert info["input"]["files"] == {"delete": 1, "replace": 2}[action]
    assert run(inputs=[f"s3://{BUCKET}/*"], records=records, config=SMALL) == info  # left as it is
    assert prepare("s3://nowhere/*", str(tmp_path / "no")).returncode == 2
