"""Files elsewhere: what is fetched of them, what hostile servers come to, and what messages say of addresses."""

import gzip
import io
import json
import os
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from safetensors.numpy import save_file

from maskcli.errors import MaskcliError
from maskcli.tables import open_tables, read
from maskcli.tensors import files_of, open_tensors, readable, remote, shown, split_target, suffix_of
from tests.cli.running import DATA, refused, run

fsspec = pytest.importorskip("fsspec")
pytest.importorskip("aiohttp")
pytestmark = pytest.mark.filterwarnings("ignore")
SICK = DATA / "minilm_attn_nomask.safetensors"
GIBIBYTE = 2**30


class Server(ThreadingHTTPServer):
    """Serves one file, and counts the bytes of it that were sent; `way` is how it misbehaves."""

    def __init__(self, path, way="well"):
        super().__init__(("127.0.0.1", 0), Handler)
        self.path, self.way, self.sent, self.over = path, way, 0, threading.Event()

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}/{self.path.name}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.head(206 if "Range" in self.headers else 200, os.stat(self.server.path).st_size)

    def head(self, status, size, **more):
        self.send_response(status)
        length = {} if size is None else {"Content-Length": str(size)}
        for name, value in {**length, "Connection": "close", **more}.items():
            self.send_header(name, value)
        self.end_headers()

    def do_GET(self):
        getattr(self, self.server.way.replace(" ", "_"), self.well)()

    def well(self, cut=None):
        with open(self.server.path, "rb") as file:
            first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
            file.seek(first)
            data = file.read(last - first + 1)
        self.server.sent += len(data)
        self.head(206, len(data))
        self.wfile.write(data[:cut])

    def cut_short(self):
        self.well(cut=100)

    def no_ranges(self):
        data = self.server.path.read_bytes()
        self.head(200, len(data))
        self.wfile.write(data)

    def endless(self, status=206):
        self.head(status, None)
        while not self.server.over.is_set():
            self.wfile.write(b"x" * 2**16)

    def endless_whole(self):
        self.endless(200)

    def silent(self):
        self.server.over.wait(20)

    def slow(self):
        self.head(206, 512)
        while not self.server.over.wait(0.1):
            self.wfile.write(b"x")

    def refused(self):
        self.head(403, 0)

    def broken(self):
        self.head(500, 0)

    def to_itself(self):
        self.head(302, 0, Location=self.path)

    def handle_one_request(self):
        try:
            super().handle_one_request()
        except OSError:
            self.close_connection = True

    def log_message(self, *_):
        pass


@contextmanager
def serving(path, way="well"):
    server = Server(path, way)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()


def large(path):
    """A safetensors file of 1 GiB, most of it holes: weights, and a causal mask behind them."""
    side, length = 2**14, 256
    mask = np.tril(np.ones((length, length), bool))
    entries = {
        "attentions.0": {"dtype": "F32", "shape": [1, 1, side, side], "data_offsets": [0, GIBIBYTE]},
        "attn_mask": {"dtype": "BOOL", "shape": [length, length], "data_offsets": [GIBIBYTE, GIBIBYTE + mask.size]},
    }  # fmt: skip
    header = json.dumps(entries).encode()
    with open(path, "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + GIBIBYTE)
        file.seek(0, os.SEEK_END)
        file.write(mask.tobytes())
    return mask


def test_a_mask_is_fetched_and_not_the_weights_before_it(tmp_path):
    mask = large(tmp_path / "large.safetensors")
    with serving(tmp_path / "large.safetensors") as server:
        file = open_tensors(server.address)
        assert [tensor.name for tensor in file.tensors] == ["attentions.0", "attn_mask"]
        assert server.sent < 2000
        assert (file.tensors[1].read() == mask).all()
        assert server.sent < 2000 + mask.size
        done = run("inspect", f"{server.address}:attn_mask", check=0)
        assert "causal" in done.stdout
        assert server.sent < 2**20


def test_a_report_is_that_of_the_file(tmp_path):
    with serving(SICK) as server:
        there, here = (
            run("diagnose", target, "--format", "json", check=1).stdout for target in (server.address, SICK)
        )
    assert there.replace(server.address, "x") == here.replace(str(SICK), "x")


@pytest.mark.combinations
@pytest.mark.parametrize(
    ("way", "said"),
    [
        ("endless", "sends more than was asked for"),
        ("endless whole", "sends more than was asked for"),
        ("silent", "is answered too slowly"),
        ("slow", "is answered too slowly"),
        ("refused", "may not be read by this user"),
        ("broken", "status 500"),
        ("to itself", "TooManyRedirects"),
        ("cut short", "cannot be read"),
    ],
)
def test_a_hostile_server_ends_in_one_sentence_soon(way, said, monkeypatch):
    monkeypatch.setattr(remote, "PATIENCE", 1)
    monkeypatch.setattr(remote, "ASIDE", 2**22)
    begun = time.monotonic()
    with serving(SICK, way) as server, pytest.raises(MaskcliError) as told:
        open_tensors(server.address)
    assert str(told.value).startswith(repr(server.address))
    assert said in str(told.value)
    assert time.monotonic() - begun < 10


def test_a_server_without_ranges_serves_small_files(tmp_path, monkeypatch):
    save_file({"attn_mask": np.tril(np.ones((64, 64), bool))}, tmp_path / "a.safetensors")
    with serving(tmp_path / "a.safetensors", "no ranges") as server:
        assert open_tensors(server.address).tensors[0].read().sum() == 64 * 65 / 2
        monkeypatch.setattr(remote, "ASIDE", 1000)
        with pytest.raises(MaskcliError, match="sends more than was asked for; download it"):
            open_tensors(server.address)


def test_what_is_not_there_is_one_sentence_without_secrets(tmp_path):
    with serving(SICK) as server:
        missing = server.address.replace("http://", "http://me:secret@") + ".npy?signature=secret"
        server.path = tmp_path / "nothing"
        told = refused("diagnose", missing)
    assert "secret" not in told
    assert f"http://127.0.0.1:{server.server_port}/{SICK.name}.npy?…" in told
    for address, said in (
        ("http://me:secret@127.0.0.1:1/a.npy?key=secret", "'http://127.0.0.1:1/a.npy?…' cannot be read"),
        ("nowhere://a.npy", "has an unknown beginning"),
        ("file:///etc/passwd.npy", "write the path of a local file itself"),
        ("memory://nothing.npy", "does not exist"),
    ):
        with pytest.raises(MaskcliError) as error:
            open_tensors(address)
        assert said in str(error.value)
        assert "secret" not in str(error.value)
    with pytest.raises(MaskcliError, match="cannot be listed"):
        files_of("https://127.0.0.1:1/dumps/", lambda name: True, "")


@pytest.mark.parametrize(
    ("target", "address", "tensor"),
    [
        ("https://host:80/a/x.npy?sig=a.b&c=d:w.0", "https://host:80/a/x.npy?sig=a.b&c=d", "w.0"),
        ("https://host:80/a/x.npy", "https://host:80/a/x.npy", None),
        ("s3://bucket/x.safetensors:attentions.0", "s3://bucket/x.safetensors", "attentions.0"),
        ("memory://x.npy:w", "memory://x.npy", "w"),
    ],
)
def test_a_tensor_stands_behind_the_suffix_or_the_query(target, address, tensor):
    assert split_target(target) == (address, tensor)
    assert suffix_of(address) in readable()


def test_addresses_are_shown_without_login_and_query():
    assert shown("https://me:p@ss@host/x.npy?key=1#2") == "https://host/x.npy?…"
    assert shown("s3://bucket/x.npy") == "s3://bucket/x.npy"
    assert shown("C://x?y") == "C://x?y"
    assert shown("dumps/x?.npy") == "dumps/x?.npy"


def test_folders_and_patterns_elsewhere():
    memory = fsspec.filesystem("memory")
    for name in ("b/x.npy", "a.npy", ".hidden.npy", "notes.txt", "b/.cache/y.npy"):
        memory.pipe(f"/dumps/{name}", b"")

    def known(name):
        return name.endswith(".npy")

    everything = ["memory://dumps/a.npy", "memory://dumps/b/x.npy"]
    assert files_of("memory://dumps/", known, "") == everything
    assert files_of("memory://dumps/*.npy", known, "") == everything[:1]
    assert files_of("memory://dumps/**", known, "") == everything
    with pytest.raises(MaskcliError, match="'memory://dumps/c\\*' matches no files"):
        files_of("memory://dumps/c*", known, ".npy")


@pytest.mark.parametrize("text", ["{", "no rows", ""])
def test_what_is_said_of_a_training_set_elsewhere_holds_no_secret(text, tmp_path):
    (tmp_path / "a.jsonl").write_text(text)
    with serving(tmp_path / "a.jsonl") as server:
        told = refused("audit", server.address.replace("http://", "http://me:secret@") + "?key=secret")
    assert "secret" not in told
    assert f"'http://127.0.0.1:{server.server_port}/a.jsonl?…'" in told


@pytest.mark.parametrize("form", ["parquet", "arrow", "stream.arrow", "jsonl", "jsonl.gz"])
def test_rows_of_training_sets_elsewhere(form):
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet")
    rows = [{"input_ids": list(range(at, at + 5))} for at in range(300)]
    data = io.BytesIO()
    if form == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), data, row_group_size=100)
    elif form.endswith("arrow"):
        table = pyarrow.Table.from_pylist(rows)
        new = pyarrow.ipc.new_stream if form.startswith("stream") else pyarrow.ipc.new_file
        with new(data, table.schema) as writer:
            writer.write_table(table, max_chunksize=100)
    else:
        data.write("".join(f"{json.dumps(row)}\n" for row in rows).encode())
    whole = gzip.compress(data.getvalue()) if form.endswith("gz") else data.getvalue()
    fsspec.filesystem("memory").pipe(f"/sets/{form}/a.{form}", whole)
    for target in (f"memory://sets/{form}/*", f"memory://sets/{form}/", f"memory://sets/{form}/a.{form}"):
        (table,) = open_tables([target])
        ids = np.concatenate(
            [chunk.columns["input_ids"].values for part in table.parts for chunk in read(part, table.numbers)]
        )
        assert (ids == np.concatenate([row["input_ids"] for row in rows])).all()


def test_local_paths_need_no_library_for_others():
    code = (
        "import sys; from maskcli.inputs.tasks import tasks_of, open_roled\n"
        f"open_roled(tasks_of([{str(SICK)!r}])[0])\n"
        "print(sorted({'fsspec', 'aiohttp', 's3fs'} & set(sys.modules)))"
    )
    assert run_python(code) == "[]\n"


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_buckets(monkeypatch):
    moto = pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    server = moto.ThreadedMotoServer(port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        bucket = fsspec.filesystem("s3", skip_instance_cache=True)
        bucket.mkdir("dumps")
        bucket.put(str(SICK), "dumps/run/step1.safetensors")
        (path,) = files_of("s3://dumps/run/*.safetensors", lambda name: name.endswith(".safetensors"), "")
        assert path == "s3://dumps/run/step1.safetensors"
        assert [each.name for each in open_tensors(path).tensors] == [
            each.name for each in open_tensors(SICK).tensors
        ]
        with pytest.raises(MaskcliError, match=r"'s3://dumps/nothing.npy' does not exist"):
            open_tensors("s3://dumps/nothing.npy")
    finally:
        server.stop()
