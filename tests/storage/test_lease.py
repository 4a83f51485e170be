"""Leases held by real processes: killed, suspended, on another machine, and many at once."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from plait.recipes import nano
from plait.storage import lease
from plait.storage.run_folder import HeldError, RunFolder, claim

HOLD = """
import sys, time
from pathlib import Path
from plait.storage import lease
lease.BEAT, lease.VOID = 0.1, 1.0
folder, machine = Path(sys.argv[1]), sys.argv[2]
if machine != "here":
    lease.machine = lambda: machine
with lease.leased(folder) as ours:
    print(ours, flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(folder, machine):
    command = [sys.executable, "-c", HOLD, str(folder), machine]
    with subprocess.Popen(command, stdin=-1, stdout=-1, stderr=-1, text=True) as process:
        assert process.stdout.readline() == "True\n"
        yield process
        process.kill()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(lease, "BEAT", 0.1)
    monkeypatch.setattr(lease, "VOID", 1.0)


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def free(folder):
    return not lease.newest(folder).live


@pytest.mark.parametrize("machine", ["here", "another"])
def test_a_living_holder_keeps_others_out_and_a_killed_one_does_not(tmp_path, machine):
    with holder(tmp_path, machine) as process:
        end = time.monotonic() + 2 * lease.VOID
        while time.monotonic() < end:
            with lease.leased(tmp_path) as ours:
                assert not ours
        process.send_signal(signal.SIGKILL)
        process.wait()
        if machine == "here":  # seen at once; elsewhere nothing tells but time
            assert free(tmp_path)
        wait_for(lambda: free(tmp_path))
        with lease.leased(tmp_path) as ours:
            assert ours
            assert lease.newest(tmp_path).number == 2
        assert os.listdir(tmp_path) == [".lease-2"]


def test_a_lease_that_was_given_back_is_free_at_once(tmp_path):
    with holder(tmp_path, "another") as process:
        process.communicate("")
        assert process.returncode == 0
        assert free(tmp_path)


def test_a_suspended_holder_that_lost_its_lease_ends(tmp_path):
    with holder(tmp_path, "another") as process:
        process.send_signal(signal.SIGSTOP)
        wait_for(lambda: free(tmp_path))
        with lease.leased(tmp_path) as ours:
            assert ours
            process.send_signal(signal.SIGCONT)
            assert process.wait(60) == lease.HELD
            said = process.communicate()[1]
            assert "another process has taken this run over" in said
            assert not free(tmp_path)


CONTEND = """
import sys, time
from pathlib import Path
from plait.storage import lease
lease.BEAT, lease.VOID = 0.05, 1.0
print("ready", flush=True)
for line in sys.stdin:
    print(lease._taken(Path(line.strip())) is not None, flush=True)
"""


def test_of_many_that_take_over_a_void_lease_one_gets_it(tmp_path):
    processes = [
        subprocess.Popen([sys.executable, "-c", CONTEND], stdin=-1, stdout=-1, text=True)
        for _ in range(4)
    ]
    assert [process.stdout.readline() for process in processes] == ["ready\n"] * 4
    for number in range(40):
        folder = tmp_path / str(number)
        folder.mkdir()
        if number % 2:  # of a holder that died; else the first lease of all
            (folder / ".lease-7").write_text('{"machine": "another", "process": 1}')
            os.utime(folder / ".lease-7", (0, 0))
        for process in processes:
            process.stdin.write(f"{folder}\n")
            process.stdin.flush()
        won = [process.stdout.readline() for process in processes]
        assert sorted(won) == ["False\n"] * 3 + ["True\n"], number
        assert os.listdir(folder) == [".lease-8" if number % 2 else ".lease-1"]
    for process in processes:
        process.communicate("")


def test_one_that_is_slow_does_not_get_a_lease_that_has_moved_on(tmp_path, monkeypatch):
    (tmp_path / ".lease-2").write_text('{"released": true}')
    seen = iter([lease.newest(tmp_path)])
    with lease.leased(tmp_path):
        pass  # 3 came and went
    with lease.leased(tmp_path) as ours:
        assert ours
        newest = lease.newest
        monkeypatch.setattr(lease, "newest", lambda folder: next(seen, None) or newest(folder))
        assert lease._taken(tmp_path) is None
        assert os.listdir(tmp_path) == [".lease-4"]


def test_a_run_is_claimed_where_there_are_no_locks(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", none)
    run = RunFolder(tmp_path / "run")
    config = nano.training(nano.model())
    assert not run.held
    with claim(run.path, config):
        assert run.held
        with pytest.raises(HeldError), claim(run.path, config):
            pass
        assert run.held
    assert not run.held
    with claim(run.path, config):
        assert run.held
