"""One holder at a time; the stale are taken over; who was taken over is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import fsspec
import pytest

from pipeline import lease as leases
from pipeline.errors import LockedError
from pipeline.lease import hold, identity, provably_dead
from pipeline.storage import Storage

ROOT = Path(__file__).resolve().parent.parent
PATH = "pipelines/x/lease.json"


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage.at(str(tmp_path / "root"))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "BEAT_S", 0.05)


def plant(storage: Storage, **changes: Any) -> dict[str, Any]:
    """A lease as another run would have left it."""
    holder = {**identity(), "token": "theirs", "run": "their-run", "since": "2026-11-22T00:00:00Z", "beat": 0, **changes}
    storage.write_json(PATH, holder)
    return holder


def ended_process() -> tuple[int, str]:
    """The pid and start time of a process that is gone."""
    code = "from pipeline.lease import identity; i = identity(); print(i['pid'], i['started'])"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True
    )
    pid, started = done.stdout.split()
    return int(pid), started


def test_a_lease_is_there_while_held_and_gone_afterwards(storage: Storage) -> None:
    with hold(storage, PATH, "mine") as held:
        assert storage.read_json(PATH)["run"] == "mine"
        held.check()
    assert not storage.exists(PATH)
    assert not [name for name in storage.list("") if "tmp." in name]


def test_it_is_given_back_when_the_block_fails(storage: Storage) -> None:
    with pytest.raises(RuntimeError), hold(storage, PATH, "mine"):
        raise RuntimeError
    assert not storage.exists(PATH)


def test_a_second_holder_is_refused_at_once_and_told_who_holds_it(storage: Storage) -> None:
    started_at_s = time.monotonic()
    with hold(storage, PATH, "first"), pytest.raises(LockedError) as caught, hold(storage, PATH, "second"):
        pass
    assert time.monotonic() - started_at_s < 3
    assert f"is held by run first (pid {os.getpid()} on {identity()['host']}, since 20" in str(caught.value)
    assert "--wait SECONDS" in str(caught.value)
    assert caught.value.exit_code == 5


def test_whoever_waits_long_enough_gets_it(storage: Storage) -> None:
    entered: list[str] = []

    def second() -> None:
        with hold(storage, PATH, "second", wait_s=20):
            entered.append("second")

    thread = threading.Thread(target=second)
    with hold(storage, PATH, "first"):
        thread.start()
        time.sleep(0.5)
        entered.append("first")
    thread.join(20)
    assert entered == ["first", "second"]


def test_waiting_ends_at_the_time_given(storage: Storage, quick: None) -> None:
    started_at_s = time.monotonic()
    with hold(storage, PATH, "first"), pytest.raises(LockedError), hold(storage, PATH, "second", wait_s=0.6):
        pass
    assert 0.6 <= time.monotonic() - started_at_s < 5


def test_a_holder_whose_process_is_gone_is_taken_over_at_once(storage: Storage) -> None:
    pid, started = ended_process()
    plant(storage, pid=pid, started=started)
    started_at_s = time.monotonic()
    with hold(storage, PATH, "mine") as held:
        assert time.monotonic() - started_at_s < 2
        held.check()


def test_a_pid_that_was_given_to_another_process_does_not_keep_the_lease(storage: Storage) -> None:
    plant(storage, pid=os.getpid(), started="1")
    with hold(storage, PATH, "mine") as held:
        held.check()


def test_a_pid_alone_proves_nothing_on_another_machine_boot_or_namespace(storage: Storage) -> None:
    pid, started = ended_process()
    mine = identity()
    assert provably_dead({**mine, "pid": pid, "started": started})
    for key in ("host", "boot", "namespace"):
        assert not provably_dead({**mine, "pid": pid, "started": started, key: "elsewhere"})
    assert not provably_dead({**mine, "pid": pid, "started": started, "boot": ""})
    assert not provably_dead(mine)
    assert not provably_dead({})


def test_a_foreign_holder_without_a_heartbeat_is_taken_over_after_the_time_to_live(storage: Storage) -> None:
    plant(storage, host="elsewhere")
    started_at_s = time.monotonic()
    with hold(storage, PATH, "mine", ttl_s=0.7) as held:
        assert 0.7 <= time.monotonic() - started_at_s < 5
        held.check()


def test_a_foreign_holder_that_beats_is_never_taken_over(storage: Storage) -> None:
    stop = threading.Event()

    def beat() -> None:
        count = 0
        while not stop.wait(0.1):
            count += 1
            plant(storage, host="elsewhere", beat=count)

    plant(storage, host="elsewhere")
    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(LockedError, match=r"run their-run .* on elsewhere"), hold(storage, PATH, "mine", ttl_s=1.0, wait_s=2.5):
            pass
    finally:
        stop.set()
        thread.join()
    assert storage.read_json(PATH)["token"] == "theirs"


def test_a_clock_that_jumps_changes_nothing(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 4e9)
    with hold(storage, PATH, "first"), pytest.raises(LockedError), hold(storage, PATH, "second", ttl_s=0.5):
        pass


def test_an_unreadable_lease_is_watched_for_the_time_to_live_and_then_taken(storage: Storage) -> None:
    storage.write(PATH, b"{cut")
    started_at_s = time.monotonic()
    with hold(storage, PATH, "mine", ttl_s=0.6) as held:
        assert time.monotonic() - started_at_s >= 0.6
        held.check()


def test_the_heartbeat_moves_and_keeps_the_holder(storage: Storage, quick: None) -> None:
    with hold(storage, PATH, "mine") as held:
        beats = set()
        end = time.monotonic() + 10
        while len(beats) < 3 and time.monotonic() < end:
            found = storage.read_json(PATH)
            assert found["token"] == held.token
            beats.add(found["beat"])
            time.sleep(0.02)
        assert len(beats) == 3


def test_a_heartbeat_that_fails_once_goes_on(storage: Storage, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    original, calls = leases._write, []

    def fail_first(*arguments: Any) -> None:
        calls.append(1)
        if len(calls) <= 2:
            raise RuntimeError("the store is down for a moment")
        original(*arguments)

    monkeypatch.setattr(leases, "_write", fail_first)
    with hold(storage, PATH, "mine"):
        end = time.monotonic() + 10
        while storage.read_json(PATH)["beat"] < 2:
            assert time.monotonic() < end, "the heartbeat stopped"
            time.sleep(0.02)


@pytest.mark.fault("K3")
def test_who_was_taken_over_is_refused_names_the_new_holder_and_does_not_remove_its_lease(storage: Storage, quick: None) -> None:
    with hold(storage, PATH, "old") as held:
        theirs = plant(storage)
        with pytest.raises(LockedError, match="was taken over by run their-run"):
            held.check()
        time.sleep(0.3)
        assert storage.read_json(PATH) == theirs, "the old heartbeat wrote over the new lease"
    assert storage.read_json(PATH) == theirs


def test_a_lease_that_vanished_is_no_longer_ours(storage: Storage) -> None:
    with hold(storage, PATH, "mine") as held:
        storage.remove(PATH)
        with pytest.raises(LockedError, match="was taken over by another run"):
            held.check()


CONTENDER = """
import os, sys, time
from pathlib import Path
from pipeline.lease import hold
from pipeline.storage import Storage

root, inside, log = sys.argv[1:4]
for turn in range(3):
    with hold(Storage.at(root), "lease.json", f"run-{os.getpid()}", wait_s=120) as held:
        os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
        time.sleep(0.01)
        held.check()
        with open(log, "a") as file:
            file.write(f"{os.getpid()}\\n")
        os.unlink(inside)
"""


def test_of_eight_processes_exactly_one_is_inside_at_a_time(tmp_path: Path) -> None:
    pid, started = ended_process()
    storage = Storage.at(str(tmp_path / "root"))
    storage.write_json("lease.json", {**identity(), "pid": pid, "started": started, "token": "dead", "run": "dead", "beat": 0})
    command = [sys.executable, "-c", CONTENDER, str(tmp_path / "root"), str(tmp_path / "inside"), str(tmp_path / "log")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    processes = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(8)]
    errors = [process.communicate(timeout=150)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 8, "\n".join(errors)
    entered = (tmp_path / "log").read_text().split()
    assert sorted(entered) == sorted(str(process.pid) for process in processes for _ in range(3))
    assert not storage.exists("lease.json")


HOLDER = """
import sys, time
from pipeline.lease import hold
from pipeline.storage import Storage
with hold(Storage.at(sys.argv[1]), sys.argv[2], "doomed"):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_killed_holder_is_followed_at_once(storage: Storage) -> None:
    command = [sys.executable, "-c", HOLDER, storage.root, PATH]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(LockedError, match="run doomed"), hold(storage, PATH, "mine"):
            pass
        process.kill()
        # Not waited for: a zombie counts as gone.
        with hold(storage, PATH, "mine", wait_s=10) as held:
            held.check()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_what_a_holder_killed_in_a_heartbeat_left_goes_with_its_lease(storage: Storage) -> None:
    pid, started = ended_process()
    plant(storage, pid=pid, started=started)
    (Path(storage.root) / PATH).with_name("tmp.theirs").write_text("{")
    with hold(storage, PATH, "mine"):
        assert not [name for name in storage.list("") if "tmp." in name]


def test_two_contenders_for_a_store_without_folders() -> None:
    filesystem = fsspec.filesystem("memory")
    storage = Storage.at("memory://leases")
    try:
        with hold(storage, PATH, "first") as held:
            assert json.loads(storage.read(PATH))["run"] == "first"
            with pytest.raises(LockedError, match="run first"), hold(storage, PATH, "second"):
                pass
            held.check()
        assert not storage.exists(PATH)
    finally:
        filesystem.store.clear()
