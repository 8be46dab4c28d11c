"""The one place that writes files: lines appended whole, files and folders written whole.

Imports no torch.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geometry_bench.errors import GeometryBenchError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

Arrays = Mapping[str, NDArray[Any]]

TEMPORARY = ".tmp"


# Digests


def digest(parts: Any) -> str:
    """SHA-256 (64 hex digits) of JSON-ready parts as canonical JSON, whatever the order of the keys."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=list)
    return digest_bytes([text.encode()])


def digest_lines(lines: Iterable[str]) -> str:
    """SHA-256 (64 hex digits) of lines of text in their order."""
    return digest_bytes(["\n".join(lines).encode()])


def digest_bytes(parts: Iterable[bytes | memoryview]) -> str:
    """SHA-256 (64 hex digits) of bytes, one part after another."""
    total = hashlib.sha256()
    for part in parts:
        total.update(part)
    return total.hexdigest()


def digest_file(path: Path) -> str:
    """SHA-256 (64 hex digits) of a file's content. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_arrays(arrays: Arrays) -> str:
    """SHA-256 (64 hex digits) of arrays with their names and shapes."""
    total = hashlib.sha256()
    for name in sorted(arrays):
        values = np.ascontiguousarray(arrays[name])
        total.update(f"{name}{values.shape}".encode())
        total.update(values.reshape(-1).view(np.uint8).data)
    return total.hexdigest()


# Files


def append_line(path: Path, text: str, *, remedy: str = "make room or choose another place") -> None:
    """Append one line whole or not at all; the folder is made where it is missing.

    Processes that append to one file wait for each other where the system can lock files. Half a line that an earlier
    process left is ended first. On return the line is on the disk.

    Raises:
        GeometryBenchError: it cannot be written, for want of space or permission; ``remedy`` ends the sentence.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new = not path.exists()
        handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        try:
            _lock(handle)
            size = os.lseek(handle, 0, os.SEEK_END)
            os.lseek(handle, max(0, size - 1), os.SEEK_SET)
            begun = os.read(handle, 1) not in (b"", b"\n")
            try:
                _write_all(handle, (b"\n" if begun else b"") + text.encode() + b"\n")
                os.fsync(handle)
            except BaseException:
                with suppress(OSError):
                    os.ftruncate(handle, size)
                raise
        finally:
            os.close(handle)  # and with it the lock
        if new:
            _sync_folder(path.parent)
    except OSError as error:
        raise _unwritable(path, error, remedy) from None


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a whole file (text in UTF-8) or nothing; the folder is made where it is missing.

    Raises:
        GeometryBenchError: it cannot be written; an older file is as it was.
    """
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    except OSError as error:
        raise _unwritable(path, error, "choose a folder that can be") from None


@contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """A temporary file to write, which takes the place of ``path`` in the end, or vanishes where writing fails.

    ``durable``: on the disk on return, so that a loss of power leaves the old content or the new. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[:32]}.{os.getpid()}.{secrets.token_hex(4)}{TEMPORARY}")
    try:
        yield temporary
        temporary.chmod(
            0o666 & ~_umask()
        )  # libraries that write for their user alone, such as safetensors, are no reason
        if durable:
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
        os.replace(temporary, path)
        if durable:
            _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    """The permissions that files of this process do not get."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextmanager
def new_folder(out: Path, needed: int = 0) -> Iterator[Path]:
    """A folder beside ``out`` that becomes ``out`` in the end, or vanishes together with the parents made for it.

    Raises:
        GeometryBenchError: ``out`` exists or cannot be written, or fewer than ``needed`` bytes are free.
    """
    if out.exists() or out.is_symlink():
        raise GeometryBenchError(f"{out} exists; choose a folder that does not.")
    made = out.with_name(f".{out.name}.{os.getpid()}{TEMPORARY}")
    absent = [parent for parent in out.parents if not parent.exists()]
    try:
        _clear_abandoned(out)
        out.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(out.parent).free
        if free < needed:
            raise GeometryBenchError(
                f"{out} needs {needed / 1e9:.3f} GB and there are {free / 1e9:.3f} GB free; choose another place."
            )
        made.mkdir()
        yield made
        os.rename(made, out)
    except OSError as error:
        raise _unwritable(out, error, "nothing is left of it, choose another place") from error
    finally:
        shutil.rmtree(made, ignore_errors=True)
        for parent in absent:  # the innermost first; one that holds something stays
            with suppress(OSError):
                parent.rmdir()


def write_folder(out: Path, files: Iterable[tuple[str, str | bytes]], mark: str) -> None:
    """Write a folder of files (path within it, content) whole or not at all.

    A folder that is there already is replaced where it is empty or holds the file ``mark``, as one written so does.

    Raises:
        GeometryBenchError: it holds something else, or cannot be written.
    """
    is_ours = (out / mark).is_file() or (out.is_dir() and not any(out.iterdir()))
    if (out.exists() or out.is_symlink()) and (out.is_symlink() or not is_ours):
        raise GeometryBenchError(
            f"{out} exists and was not written by this command: choose a folder that does not exist."
        )
    fresh, old = (out.with_name(f".{out.name}.{os.getpid()}.{word}") for word in ("new", "old"))
    with new_folder(fresh if out.exists() else out) as made:
        (made / mark).touch()
        for name, content in files:
            (made / name).parent.mkdir(parents=True, exist_ok=True)
            (made / name).write_bytes(content.encode() if isinstance(content, str) else content)
    if fresh.exists():
        os.rename(out, old)
        os.rename(fresh, out)
        shutil.rmtree(old)


def writable(file: Path, *, remedy: str = "choose another place") -> None:
    """Check early that a file can be written, without making it or its folder.

    Raises:
        GeometryBenchError: it cannot; ``remedy`` ends the sentence.
    """
    nearest = next(place for place in file.absolute().parents if place.exists())
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
        if file.exists():
            os.close(os.open(file, os.O_RDWR | os.O_APPEND))
    except OSError as error:
        raise _unwritable(file, error, remedy) from None


def _unwritable(path: Path, error: OSError, remedy: str) -> GeometryBenchError:
    return GeometryBenchError(f"{path} cannot be written ({error.strerror or error}): {remedy}.")


def _write_all(handle: int, data: bytes) -> None:
    """os.write may write less than it is given, as where the disk is almost full."""
    while data:
        written = os.write(handle, data)
        if not written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        data = data[written:]


def _lock(handle: int) -> None:
    if fcntl is not None:
        with suppress(OSError):  # a file system without locks: O_APPEND alone keeps lines apart
            fcntl.flock(handle, fcntl.LOCK_EX)


def _sync_folder(folder: Path) -> None:
    """A file's entry in its folder is on the disk once the folder is; not all systems let a folder be opened for that."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _clear_abandoned(out: Path) -> None:
    """Remove what was begun for ``out`` by processes that live no more: killed, they could not do it themselves."""
    named = re.compile(rf"\.{re.escape(out.name)}\.(\d+){re.escape(TEMPORARY)}")
    for left in out.parent.iterdir() if out.parent.is_dir() else ():
        match = named.fullmatch(left.name)
        if match and not _runs(int(match[1])):
            shutil.rmtree(left, ignore_errors=True)


def _runs(process: int) -> bool:
    """Whether another process of that number runs; where that cannot be asked (Windows), it is taken to."""
    if process == os.getpid():
        return False
    try:
        if os.name == "posix":
            os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True
