"""Data sets from their servers: files by pooch, whole and with the right checksum or not there at all, archives unpacked."""

from __future__ import annotations

import hashlib
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

from dpap_neuro.data.packed import UNREADABLE
from dpap_neuro.data.remote import File, Remote
from dpap_neuro.errors import BadInput, InputError
from dpap_neuro.files import make_folder, write_stream

# progress(what, done, all), in bytes.
Progress = Callable[[str, int, int], None]
# What of a broken download may be lost.
_CHUNK = 1 << 16
# Seconds until a server has to answer, and between two pieces of its answer.
_PATIENCE = (15, 60)


def get(remote: Remote, data_dir: str | Path, progress: Progress | None = None) -> list[Path]:
    """Bring a data set's files into `data_dir`, unpacked where it lists archives; what is there already is not fetched again. Returns
    the files.

    Raises InputError, naming page, file, checksum and folder, for a file that only a browser can get, that no server gives, or
    whose checksum is another; that file is not kept. What a server that broke off had sent is, and the next call goes on behind it.
    """
    tell = progress or (lambda what, done, total: None)
    folder = make_folder(Path(data_dir) / remote.folder)
    try:
        files = [_fetched(file, folder, remote, tell) for file in remote.files]
    except InputError:
        _without_empty(folder, Path(data_dir))
        raise
    if remote.unpack:
        for file, path in zip(remote.files, files, strict=True):
            unpack(path, folder, tell)
            if file.inside is not None:
                inside = next((found for found in sorted(folder.rglob(file.inside))), None)
                if inside is None:
                    raise InputError(f"{path}: found no {file.inside} in it")
                unpack(inside, folder, tell)
    return files


def _without_empty(folder: Path, root: Path) -> None:
    """Removes what was made for nothing, below the root."""
    while folder != root and folder.is_relative_to(root):
        try:
            folder.rmdir()
        except OSError:  # something is in it
            return
        folder = folder.parent


def _fetched(file: File, folder: Path, remote: Remote, tell: Progress) -> Path:
    path = folder / file.name
    if path.exists():
        if _md5(path, tell) == file.md5:
            return path
        raise InputError(
            f"{path}: is not the file of md5 {file.md5} that is expected; move it away and repeat the command"
        )
    reasons = []
    for url in file.urls:
        try:
            _retrieve(url, file, folder, tell)
            return path
        except InputError as error:
            reasons.append(f"{url}: {error}")
    why = f" ({'; '.join(reasons)})" if reasons else ""
    how = "no server gave it" if reasons else "its server needs a browser"
    raise InputError(
        f"{path}: {how}{why}; get {file.name}, md5 {file.md5}, from {remote.page} with a browser, put it in {folder} and repeat the command"
    )


def _retrieve(url: str, file: File, folder: Path, tell: Progress) -> None:
    """Raises InputError, in a few words, where that fails; a file with another checksum is removed."""
    import pooch
    import requests

    pooch.get_logger().setLevel("ERROR")
    fetch = _Resuming(
        folder / f"{file.name}.part", lambda done, total: tell(f"getting {file.name}", done, total)
    )
    try:
        pooch.retrieve(url, f"md5:{file.md5}", fname=file.name, path=folder, downloader=fetch)
    except requests.exceptions.RequestException as error:
        answer = getattr(error.response, "status_code", None)
        said = f"answered {answer}" if answer else type(error).__name__
        raise InputError(said) from None
    except ValueError:  # pooch's, for a checksum
        raise InputError("sent a file of another checksum, which was removed") from None


class _Resuming:
    """A downloader for pooch that keeps what has come in `part`, and asks for the rest of it the next time."""

    def __init__(self, part: Path, tell: Callable[[int, int], None]) -> None:
        self.part, self.tell = part, tell

    def __call__(self, url: str, output_file: Any, pooch: Any, check_only: bool = False) -> None:
        have = self.part.stat().st_size if self.part.exists() else 0
        response = self._ask(url, have)
        if response.status_code == 416:  # it has no byte behind those that are here
            response.close()
            self.part.unlink()
            have, response = 0, self._ask(url, 0)
        with response:
            response.raise_for_status()
            if response.status_code != 206:  # from its beginning, whatever was asked for
                have = 0
            total = have + int(response.headers.get("content-length", 0))
            with open(self.part, "ab" if have else "wb") as file:
                for chunk in response.iter_content(_CHUNK):
                    file.write(chunk)
                    have += len(chunk)
                    if total:
                        self.tell(min(have, total), total)
        os.replace(self.part, output_file)

    def _ask(self, url: str, have: int) -> Any:
        import requests

        # Not packed for the way: the checksum is of the file as it lies there.
        headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={have}-"} if have else {})}
        return requests.get(url, headers=headers, stream=True, timeout=_PATIENCE)


def _md5(path: Path, tell: Progress) -> str:
    digest, size, done = hashlib.md5(usedforsecurity=False), path.stat().st_size, 0
    with open(path, "rb") as file:
        while part := file.read(1 << 22):
            digest.update(part)
            done += len(part)
            tell(f"checking {path.name}", done, size)
    return digest.hexdigest()


def unpack(archive: Path, folder: Path, progress: Progress | None = None) -> None:
    """A .zip, .tar.gz or .tgz file's files into a folder, each whole or not at all; those that are there in their size are passed over.

    Raises InputError for a damaged archive, for a name that leads out of the folder, and for what is no plain file: nothing of it is
    written before its names are checked.
    """
    try:
        members = list(_members(archive))
    except InputError:
        raise
    except UNREADABLE as error:
        raise _damaged(archive, error) from None
    wanted = {name: size for name, size in members if not _of_file_managers(name)}
    for name in wanted:
        _check_name(archive, name, folder)
    done, total = 0, sum(wanted.values())
    try:
        for name, source in _contents(archive):
            if name not in wanted:
                continue
            path = folder / name
            if not (path.is_file() and path.stat().st_size == wanted[name]):
                make_folder(path.parent)
                write_stream(path, lambda out, source=source: _copy(source, out, archive))  # type: ignore[misc]
            done += wanted[name]
            if progress is not None:
                progress(f"unpacking {archive.name}", done, total)
    except BadInput:
        raise
    except UNREADABLE as error:
        raise _damaged(archive, error) from None


def _copy(source: IO[bytes], out: IO[bytes], archive: Path) -> None:
    while True:
        try:
            part = source.read(1 << 20)
        except UNREADABLE as error:
            raise _damaged(archive, error) from None
        if not part:
            return
        out.write(part)


def _damaged(archive: Path, error: BaseException) -> InputError:
    return InputError(
        f"{archive}: cannot be unpacked ({' '.join(str(error).split())[:120] or type(error).__name__})"
    )


def _members(archive: Path) -> Iterator[tuple[str, int]]:
    """Name and size of each file. Raises InputError for a link or a device."""
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as packed:
            for info in packed.infolist():
                kind = stat.S_IFMT(info.external_attr >> 16)
                if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                    raise InputError(f"{archive}: holds {info.filename[:80]!r}, which is no plain file")
                if not info.is_dir():
                    yield info.filename, info.file_size
        return
    with tarfile.open(archive, "r:*") as packed:
        for member in packed:
            if not (member.isreg() or member.isdir()):
                raise InputError(f"{archive}: holds {member.name[:80]!r}, which is no plain file")
            if member.isreg():
                yield member.name, member.size


def _contents(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as packed:
            for info in packed.infolist():
                if not info.is_dir():
                    with packed.open(info) as source:
                        yield info.filename, source
        return
    with tarfile.open(archive, "r:*") as packed:
        for member in packed:
            found = packed.extractfile(member) if member.isreg() else None
            if found is not None:
                yield member.name, found


def _of_file_managers(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return "__MACOSX" in parts or any(part.startswith("._") for part in parts)


def _check_name(archive: Path, name: str, folder: Path) -> None:
    parts = PurePosixPath(name).parts
    plain = parts and not name.startswith("/") and ".." not in parts and not any(c in name for c in "\\:\0")
    root = folder.resolve()
    if not plain or not (folder / name).resolve().is_relative_to(root):
        raise InputError(
            f"{archive}: holds {name[:80]!r}, a name that leads out of the folder; nothing of it was unpacked"
        )
