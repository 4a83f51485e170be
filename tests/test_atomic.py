"""What is written to stay is there whole or not at all, whatever happens while it is written."""

import errno
import multiprocessing
import os
import resource
import signal
import time
from collections import namedtuple
from pathlib import Path

import pytest

from plait import atomic

Usage = namedtuple("Usage", "total used free")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_after_an_error_the_old_file_stands_and_nothing_else(tmp_path):
    atomic.write_text(tmp_path / "a", "old")
    with pytest.raises(IsADirectoryError), atomic.new_file(tmp_path / "a") as partial:
        partial.write_text("half") and tmp_path.write_text("no file")
    assert (tmp_path / "a").read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_a_file_is_as_public_as_what_it_replaces_or_as_its_folder(tmp_path):
    tmp_path.chmod(0o755)
    with atomic.new_file(tmp_path / "a") as partial:
        partial.touch(0o600)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o644
    (tmp_path / "a").chmod(0o640)
    atomic.write_text(tmp_path / "a", "new")
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_what_the_disk_lacks_is_said_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic.shutil, "disk_usage", lambda _: Usage(10_000, 9_000, 1_000))
    with pytest.raises(OSError, match=r"lacks 500 of the 1,500 bytes .*'.*/b'") as caught:
        atomic.write_text(tmp_path / "b", "x" * 1500)
    assert caught.value.errno == errno.ENOSPC
    assert names(tmp_path) == []
    atomic.write_text(tmp_path / "b", "x" * 900)


def limited(path, bytes_):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, bytes_))
    try:
        atomic.write_text(path, "x" * 5000)
    except OSError as error:
        os.write(2, str(error).encode())
        os._exit(7)


def test_a_disk_that_fills_up_is_one_line_and_leaves_nothing(tmp_path, capfd):
    process = multiprocessing.get_context("fork").Process(
        target=limited, args=(tmp_path / "c", 2000)
    )
    process.start()
    process.join()
    assert process.exitcode == 7
    assert "the disk was full after 2,000 of 5,000 bytes" in capfd.readouterr().err
    assert names(tmp_path) == []


def fill(path, started, folder):
    with atomic.new_folder(path) as partial:
        (partial / "first").write_text("x")
        started.set()
        time.sleep(60)


def test_a_killed_process_leaves_a_hidden_folder_that_the_next_one_takes(tmp_path):
    context = multiprocessing.get_context("fork")
    started = context.Event()
    process = context.Process(target=fill, args=(tmp_path / "d", started, True))
    process.start()
    assert started.wait(20)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert names(tmp_path) == [".d.partial"]
    with atomic.new_folder(tmp_path / "d") as partial:
        assert names(partial) == []
        (partial / "second").write_text("y")
    assert names(tmp_path) == ["d"]
    assert names(tmp_path / "d") == ["second"]


def test_a_folder_is_replaced_only_where_it_holds_nothing_else(tmp_path):
    folder = tmp_path / "e"
    for content in ("old", "new"):
        with atomic.new_folder(folder, replaces=("made",)) as partial:
            (partial / "made").write_text(content)
    assert (folder / "made").read_text() == "new"
    (folder / "thesis.tex").write_text("years of work")
    with (
        pytest.raises(ValueError, match=r"holds thesis\.tex: choose another place"),
        atomic.new_folder(folder, replaces=("made",)),
    ):
        pass
    assert names(folder) == ["made", "thesis.tex"]
    with pytest.raises(ValueError, match="holds made"), atomic.new_folder(folder):
        pass


def test_what_is_swept_is_what_a_killed_process_left(tmp_path):
    (tmp_path / ".a.123.partial").write_text("x")
    (tmp_path / ".b.partial").mkdir()
    (tmp_path / ".c.removed").mkdir()
    (tmp_path / ".partial-step-3").mkdir()
    (tmp_path / ".lock").write_text("")
    (tmp_path / "partial").write_text("")
    atomic.sweep(tmp_path)
    assert names(tmp_path) == [".lock", "partial"]
