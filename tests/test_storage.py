"""Files are written whole or not at all, however the disk behaves and whoever else writes."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geometry_bench import storage
from geometry_bench.errors import GeometryBenchError
from geometry_bench.records.arrays import write_arrays
from geometry_bench.storage import append_line, digest, digest_lines, write_atomically

FULL = OSError(28, "No space left on device")


def no_space(*_: Any) -> None:
    raise FULL


def test_digests_stay_as_they_are_in_stored_baselines() -> None:
    assert digest({"b": ["é", 1.5, None], "a": True}).startswith("2d165b05")
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest_lines(["one", "two"]).startswith("21066d10")


def test_a_line_is_whole_though_the_system_writes_ten_bytes_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: real(handle, data[:10]))
    path = tmp_path / "deep" / "lines"
    for line in ("a" * 95, "é" * 50, ""):
        append_line(path, line)
    assert path.read_text().split("\n") == ["a" * 95, "é" * 50, "", ""]


@pytest.mark.parametrize("old", [b"", b"one\n", b"one\nhalf"])
def test_a_line_that_does_not_fit_leaves_the_file_as_it_was(
    old: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lines"
    path.write_bytes(old)
    real, room = os.write, 25

    def nearly_full(handle: int, data: bytes) -> int:
        nonlocal room
        if not room:
            raise FULL
        written = real(handle, data[: min(room, 10)])
        room -= written
        return written

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", nearly_full)
        with pytest.raises(GeometryBenchError, match=r"lines cannot be written \(No space left on device\): make room"):
            append_line(path, "x" * 100)
    assert path.read_bytes() == old
    append_line(path, "next")
    assert path.read_bytes() == old + (b"" if old[-1:] in (b"", b"\n") else b"\n") + b"next\n"


def append_often(path: Path, name: str) -> None:
    for number in range(200):
        append_line(path, f"{name}{number} " + name * 5000)


def test_two_processes_lose_and_mix_no_line(tmp_path: Path) -> None:
    context, path = multiprocessing.get_context("fork"), tmp_path / "lines"
    writers = [context.Process(target=append_often, args=(path, name)) for name in "xy"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0]
    lines = path.read_text().splitlines()
    for name in "xy":
        assert [line for line in lines if line[0] == name] == [f"{name}{n} " + name * 5000 for n in range(200)]
    assert len(lines) == 400


@pytest.mark.parametrize("fails", ["replace", "fsync"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    fails: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "deep" / "file.json"
    write_atomically(path, "old")
    monkeypatch.setattr(os, fails, no_space)
    with pytest.raises(GeometryBenchError, match="No space left on device"):
        write_atomically(path, "new")
    assert [(p.name, p.read_text()) for p in path.parent.iterdir()] == [("file.json", "old")]


def test_others_may_read_what_the_umask_lets_them(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "whole", b"\xff")
        append_line(tmp_path / "lines", "one")
        write_arrays(tmp_path / "arrays.safetensors", {"x": np.zeros(2)})
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o640}


@pytest.mark.parametrize("attempt", [lambda path: write_atomically(path, ""), lambda path: append_line(path, "")])
def test_a_file_in_place_of_the_folder(attempt: Callable[[Path], None], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(GeometryBenchError, match="cannot be written"):
        attempt(tmp_path / "file" / "below")


def test_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "fcntl", None)  # as on Windows
    append_line(tmp_path / "lines", "one")
    assert (tmp_path / "lines").read_text() == "one\n"
