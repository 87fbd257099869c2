"""Data sets from a server of our own: whole, checked, unpacked, resumed, or refused in a line and not left behind."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import command_line
import numpy as np
import pytest
from typer.testing import CliRunner

pytest.importorskip("pooch")

import still_files

from dpap_neuro.cli import app
from dpap_neuro.data import DATASETS, open_dataset
from dpap_neuro.data.download import get, unpack
from dpap_neuro.data.remote import REMOTES, File, Remote
from dpap_neuro.errors import InputError


class Server:
    """files: by path. broken: paths that end after half of what was asked for. plain: paths that know no ranges. asked: every request."""

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.broken: set[str] = set()
        self.plain: set[str] = set()
        self.asked: list[tuple[str, str | None]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                wanted = self.headers.get("Range")
                server.asked.append((self.path, wanted))
                raw = server.files.get(self.path)
                if raw is None:
                    self.send_error(403)
                    return
                first = (
                    int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
                    if wanted and self.path not in server.plain
                    else 0
                )
                if first >= len(raw):
                    self.send_error(416)
                    return
                body = raw[first:]
                self.send_response(206 if first else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[: len(body) // 2] if self.path in server.broken else body)

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


RAW = np.random.default_rng(0).integers(0, 256, 300_000, np.uint8).tobytes()


def md5(raw: bytes) -> str:
    return hashlib.md5(raw).hexdigest()


def remote(*files: File, folder: str = "SET", unpack: bool = False) -> Remote:
    return Remote(folder, files, "https://example.org/page", "CC BY 4.0", unpack)


def left(folder) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_a_file_comes_once(server, tmp_path):
    server.files["/a.bin"] = RAW
    wanted = remote(File("a.bin", md5(RAW), (f"{server.url}/a.bin",)))
    told = []
    (path,) = get(wanted, tmp_path, lambda *seen: told.append(seen))
    assert path == tmp_path / "SET" / "a.bin" and path.read_bytes() == RAW and left(tmp_path) == ["SET/a.bin"]
    assert told[-1] == ("getting a.bin", len(RAW), len(RAW))
    get(wanted, tmp_path)
    assert len(server.asked) == 1


def test_the_next_mirror_is_tried(server, tmp_path):
    server.files["/good"], server.files["/other"] = RAW, b"another file"
    urls = tuple(f"{server.url}/{name}" for name in ("missing", "other", "good"))
    (path,) = get(remote(File("a.bin", md5(RAW), urls)), tmp_path)
    assert path.read_bytes() == RAW and [p for p, _ in server.asked] == ["/missing", "/other", "/good"]
    assert left(tmp_path) == ["SET/a.bin"]


def test_a_wrong_checksum_is_refused_and_not_left_behind(server, tmp_path):
    server.files["/a.bin"] = RAW[:-1] + b"x"
    wanted = remote(File("a.bin", md5(RAW), (f"{server.url}/a.bin", f"{server.url}/none")))
    with pytest.raises(InputError) as caught:
        get(wanted, tmp_path)
    said = str(caught.value)
    assert "sent a file of another checksum, which was removed" in said and "/none: answered 403" in said
    assert (
        f"get a.bin, md5 {md5(RAW)}, from https://example.org/page with a browser, put it in {tmp_path / 'SET'}"
        in said
    )
    assert "\n" not in said and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_that_broke_off_goes_on(ranges, server, tmp_path):
    server.files["/a.bin"] = RAW
    server.broken.add("/a.bin")
    if not ranges:
        server.plain.add("/a.bin")
    wanted = remote(File("a.bin", md5(RAW), (f"{server.url}/a.bin",)))
    with pytest.raises(InputError, match="no server gave it"):
        get(wanted, tmp_path)
    half = (tmp_path / "SET" / "a.bin.part").read_bytes()
    assert RAW.startswith(half) and 0 < len(half) < len(RAW) and left(tmp_path) == ["SET/a.bin.part"]
    server.broken.clear()
    (path,) = get(wanted, tmp_path)
    assert path.read_bytes() == RAW and server.asked[-1] == ("/a.bin", f"bytes={len(half)}-")
    assert left(tmp_path) == ["SET/a.bin"]


@pytest.mark.parametrize("begun", [RAW, RAW + b"more", b"of another file"])
def test_a_part_of_something_else_does_no_harm(begun, server, tmp_path):
    server.files["/a.bin"] = RAW
    wanted = remote(File("a.bin", md5(RAW), (f"{server.url}/a.bin",)))
    (tmp_path / "SET").mkdir()
    (tmp_path / "SET" / "a.bin.part").write_bytes(begun)
    if begun == b"of another file":
        with pytest.raises(InputError, match="another checksum"):
            get(wanted, tmp_path)
    assert get(wanted, tmp_path)[0].read_bytes() == RAW and left(tmp_path) == ["SET/a.bin"]


def test_somebodys_own_file_is_not_replaced(server, tmp_path):
    server.files["/a.bin"] = RAW
    (tmp_path / "SET").mkdir()
    (tmp_path / "SET" / "a.bin").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"a\.bin: is not the file of md5 .* move it away"):
        get(remote(File("a.bin", md5(RAW), (f"{server.url}/a.bin",))), tmp_path)
    assert (tmp_path / "SET" / "a.bin").read_bytes() == b"mine" and not server.asked


def test_where_only_a_browser_gets_it(tmp_path):
    archive = tar({"DvsGesture/readme.txt": b"hello"})
    wanted = remote(File("a.tar.gz", md5(archive)), folder="", unpack=True)
    with pytest.raises(
        InputError,
        match=f"its server needs a browser; get a.tar.gz, md5 {md5(archive)}, from https://example.org/page",
    ):
        get(wanted, tmp_path)
    (tmp_path / "a.tar.gz").write_bytes(archive)
    get(wanted, tmp_path)
    assert (tmp_path / "DvsGesture" / "readme.txt").read_bytes() == b"hello"


# --- archives ------------------------------------------------------------------------------------------------


def tar(files: dict[str, bytes], *more: tarfile.TarInfo) -> bytes:
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w:gz") as archive:
        for name, raw in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            archive.addfile(info, io.BytesIO(raw))
        for info in more:
            archive.addfile(info)
    return memory.getvalue()


def zipped(files: dict[str, bytes]) -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, raw in files.items():
            archive.writestr(name, raw)
    return memory.getvalue()


@pytest.mark.parametrize("pack, name", [(tar, "a.tar.gz"), (zipped, "a.zip")])
def test_archives_are_unpacked_and_mended(pack, name, server, tmp_path):
    files = {
        "Train/0/1.bin": RAW[:1000],
        "Train/1/2.bin": RAW[1000:1500],
        "__MACOSX/x": b"",
        "Train/._1": b"s",
    }
    raw = server.files["/a"] = pack(files)
    wanted = remote(File(name, md5(raw), (f"{server.url}/a",)), unpack=True)
    get(wanted, tmp_path)
    assert left(tmp_path) == sorted([f"SET/{name}", "SET/Train/0/1.bin", "SET/Train/1/2.bin"])
    (tmp_path / "SET" / "Train" / "0" / "1.bin").write_bytes(b"cut short")
    get(wanted, tmp_path)
    assert (tmp_path / "SET" / "Train" / "0" / "1.bin").read_bytes() == RAW[:1000]


def test_an_archive_in_an_archive(server, tmp_path):
    raw = server.files["/a"] = zipped(
        {"N/inner.zip": zipped({"Caltech/a/1.bin": b"events"}), "N/readme": b"x"}
    )
    get(remote(File("a.zip", md5(raw), (f"{server.url}/a",), inside="inner.zip"), unpack=True), tmp_path)
    assert (tmp_path / "SET" / "Caltech" / "a" / "1.bin").read_bytes() == b"events"


def link(kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo("link")
    info.type, info.linkname = kind, "/etc/passwd"
    return info


def zipped_link() -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        info = zipfile.ZipInfo("link")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    return memory.getvalue()


@pytest.mark.parametrize(
    "name, raw",
    [
        *(("a.zip", zipped({"fine": b"1", bad: b"2"})) for bad in ("../out", "a/../../out", "/out", "C:\\out", "..\\out")),
        *(("a.tar.gz", tar({"fine": b"1", bad: b"2"})) for bad in ("../out", "a/../../out", "/out")),
        *(("a.tar.gz", tar({"fine": b"1"}, link(kind))) for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE)),
        ("a.zip", zipped_link()),
    ],
)  # fmt: skip
def test_nothing_leaves_the_folder(name, raw, tmp_path):
    inside = tmp_path / "deep" / "folder"
    inside.mkdir(parents=True)
    (inside / name).write_bytes(raw)
    with pytest.raises(InputError, match=r"leads out of the folder|no plain file"):
        unpack(inside / name, inside)
    assert left(tmp_path) == [f"deep/folder/{name}"]


def test_a_link_in_the_folder_is_not_followed_out_of_it(tmp_path):
    inside = tmp_path / "folder"
    inside.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (inside / "Train").symlink_to(tmp_path / "elsewhere")
    (inside / "a.zip").write_bytes(zipped({"Train/x": b"1"}))
    with pytest.raises(InputError, match="leads out of the folder"):
        unpack(inside / "a.zip", inside)
    assert not any((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("name, raw", [("a.zip", zipped({"x": RAW})), ("a.tar.gz", tar({"x": RAW}))])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_damaged_archives_are_one_line(name, raw, share, tmp_path):
    (tmp_path / name).write_bytes(raw[: int(len(raw) * share)])
    with pytest.raises(InputError, match=r"cannot be unpacked \(") as caught:
        unpack(tmp_path / name, tmp_path)
    assert "\n" not in str(caught.value) and left(tmp_path) == [name]


@pytest.mark.parametrize(
    "name, raw",
    [
        ("a.zip", zipped({"x": RAW[:4000], "y": RAW[:3000]})),
        ("a.tar.gz", tar({"x": RAW[:4000], "y": RAW[:3000]})),
    ],
)
def test_archives_with_any_byte_changed_are_unpacked_or_refused(name, raw, tmp_path):
    rng = np.random.default_rng(0)
    places = [*range(0, 60, 2), *range(len(raw) - 160, len(raw), 2), *rng.integers(0, len(raw), 30).tolist()]
    refused = 0
    for place in places:
        folder = tmp_path / str(place)
        folder.mkdir(exist_ok=True)
        changed = bytearray(raw)
        changed[place] ^= 0xA5
        (folder / name).write_bytes(changed)
        try:
            unpack(folder / name, folder)
        except InputError as error:
            refused += 1
            assert str(error).startswith(f"{folder / name}: ") and "\n" not in str(error)
    assert refused > len(places) // 10


# --- the command ---------------------------------------------------------------------------------------------


def test_the_command_brings_what_the_data_set_reads(server, tmp_path, monkeypatch):
    written = still_files.write_cifar(tmp_path / "made")
    folder = tmp_path / "made" / "cifar-10-batches-bin"
    raw = server.files["/cifar-10-binary.tar.gz"] = tar(
        {f"cifar-10-batches-bin/{p.name}": p.read_bytes() for p in sorted(folder.iterdir())}
    )
    file = File("cifar-10-binary.tar.gz", md5(raw), (f"{server.url}/cifar-10-binary.tar.gz",))
    monkeypatch.setitem(
        REMOTES, "cifar10", Remote("", (file,), "https://example.org", "as they say", unpack=True)
    )
    result = CliRunner().invoke(app, ["data", "get", "cifar10", "--data-dir", str(tmp_path / "data")])
    assert result.exit_code == 0, result.output
    assert "licence: as they say" in result.output and "1 file, its checksum right" in " ".join(
        result.output.split()
    )
    assert np.array_equal(
        open_dataset("cifar10", tmp_path / "data", "test").recordings.images, written["test"][0]
    )


def test_unknown_names_are_one_line(tmp_path, monkeypatch, capsys):
    for name, said in (("imagenet", "expected one of mnist, "), ("digits", "which comes with the package")):
        assert said in command_line.fails(
            monkeypatch, capsys, "data", "get", name, "--data-dir", tmp_path / "data"
        )
    assert not (tmp_path / "data").exists()


def test_the_table_is_well_formed():
    sums = [file.md5 for remote in REMOTES.values() for file in remote.files]
    assert len(set(sums)) == len(sums) and all(re.fullmatch("[0-9a-f]{32}", md5) for md5 in sums)
    for name, remote in REMOTES.items():
        assert name.removesuffix("-ibm") in DATASETS and remote.licence and remote.page.startswith("http")
        for file in remote.files:
            assert all(re.fullmatch(r"https?://[^\s/]+/\S+", url) for url in file.urls)
            assert not remote.unpack or file.name.endswith((".zip", ".tar.gz"))
