"""Tasks on a real Ray: one local instance for the whole module, several nodes where `cluster` is marked."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline import remote
from pipeline.cluster import Cluster, ClusterSettings, TaskRaised, WorkerDied
from pipeline.errors import EmptyCorpusError, PreflightError
from pipeline.remote import code_digest, node_report, require_plain

ROOT = Path(__file__).resolve().parent.parent
HERE = "tests.test_cluster"
RESULT_TIMEOUT_S = 60


# Functions that run on workers


def echo(argument: Any) -> Any:
    return argument


def double(argument: int) -> int:
    return 2 * argument


def place(_: object) -> dict[str, Any]:
    import pipeline

    return {"pid": os.getpid(), "file": str(pipeline.__file__), "threads": os.environ.get("OMP_NUM_THREADS")}


def environment(_: object) -> dict[str, str]:
    return dict(os.environ)


def die(how: str) -> None:
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "segfault":
        ctypes.string_at(0)
    elif how == "leave":
        os._exit(0)
    elif how == "exit":
        sys.exit(3)


def misbehave(how: str) -> object:
    if how == "empty":
        raise EmptyCorpusError("nothing is left", kept=0)
    if how == "memory":
        raise MemoryError("no more")
    if how == "unpicklable":
        raise UnpicklableError("left", "right")
    return object()


class UnpicklableError(Exception):
    """It pickles, but cannot be built again from what was pickled."""

    def __init__(self, left: str, right: str) -> None:
        super().__init__(left + right)


def stop(path: str) -> None:
    Path(path).write_text(str(os.getpid()))
    os.kill(os.getpid(), signal.SIGSTOP)


def ignore_everything(path: str) -> None:
    Path(path).write_text(str(os.getpid()))
    while True:
        with contextlib.suppress(BaseException):
            time.sleep(60)


def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def meet(argument: dict[str, Any]) -> int:
    """Count the most tasks that were inside at once."""
    folder = Path(argument["folder"])
    mine = folder / argument["name"]
    mine.touch()
    most = 0
    end = time.monotonic() + argument["seconds"]
    while time.monotonic() < end and most < 2:  # until another one is seen, then long enough for a third
        most = max(most, len(list(folder.iterdir())))
        time.sleep(0.02)
    time.sleep(0.3)
    most = max(most, len(list(folder.iterdir())))
    mine.unlink()
    return most


def read_text(path: str) -> str:
    return Path(path).read_text()


# One Ray for all


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ray")


@pytest.fixture(scope="module")
def cluster(folder: Path) -> Iterator[Cluster]:
    with Cluster.open(ClusterSettings(workers=2), temp_dir=folder) as opened:
        yield opened


def result(cluster: Cluster, function: str, argument: object, **options: Any) -> object:
    return cluster.result(cluster.submit(f"{HERE}:{function}", argument, **options))


def wait_for(path: Path) -> int:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if path.exists() and path.read_text():
            return int(path.read_text())
        time.sleep(0.02)
    raise AssertionError(f"{path} was not written")


def test_plain_data_comes_back_as_it_went(cluster: Cluster) -> None:
    value = {"text": "Ünïcødé \u2028 \x00", "list": [1, 2.5, None, True], "bytes": b"\xff\x00", "tuple": (1, "a"), "large": "x" * 300_000}
    assert result(cluster, "echo", value) == value


def test_wait_returns_only_finished_tasks_and_at_least_one(cluster: Cluster) -> None:
    slow = cluster.submit(f"{HERE}:nap", 30.0)
    fast = cluster.submit(f"{HERE}:double", 21)
    assert cluster.wait([slow, fast], timeout_s=20) == [fast]
    assert cluster.result(fast) == 42
    assert cluster.wait([slow], timeout_s=0.1) == []
    assert cluster.wait([], timeout_s=5) == []
    cluster.cancel(slow)
    with pytest.raises(WorkerDied):
        cluster.result(slow)


def test_no_more_tasks_run_at_once_than_there_are_workers(cluster: Cluster, tmp_path: Path) -> None:
    handles = [cluster.submit(f"{HERE}:meet", {"folder": str(tmp_path), "name": f"t{number}", "seconds": 5}) for number in range(6)]
    assert cluster.workers == 2
    assert max(int(str(cluster.result(handle))) for handle in handles) == 2


@pytest.mark.parametrize("how", ["kill", "segfault", "leave"])
def test_a_worker_that_dies_is_told_from_one_that_raises(cluster: Cluster, how: str) -> None:
    with pytest.raises(WorkerDied) as caught:
        result(cluster, "die", how, label="unit 7")
    assert caught.value.reason == "crash"
    assert str(caught.value).startswith("unit 7: ")
    assert result(cluster, "double", 1) == 2


def test_a_task_is_not_tried_twice_by_ray(cluster: Cluster, tmp_path: Path) -> None:
    with pytest.raises(WorkerDied):
        result(cluster, "die_once", str(tmp_path))
    assert len(list(tmp_path.iterdir())) == 1


def die_once(path: str) -> None:
    (Path(path) / f"attempt-{time.time_ns()}").touch()
    os.kill(os.getpid(), signal.SIGKILL)


def test_an_exception_arrives_whole_with_the_workers_traceback(cluster: Cluster) -> None:
    with pytest.raises(TaskRaised) as caught:
        result(cluster, "misbehave", "empty", label="clean unit 3")
    error = caught.value.error
    assert type(error) is EmptyCorpusError
    assert error.attributes == {"kept": 0}
    assert str(caught.value) == "clean unit 3: EmptyCorpusError: nothing is left"
    assert "in misbehave" in caught.value.traceback


def test_memory_errors_and_exceptions_that_cannot_travel_are_raised_not_crashes(cluster: Cluster) -> None:
    with pytest.raises(TaskRaised) as caught:
        result(cluster, "misbehave", "memory")
    assert type(caught.value.error) is MemoryError
    with pytest.raises(TaskRaised, match="leftright"):
        result(cluster, "misbehave", "unpicklable")


def test_sys_exit_in_a_task_is_an_error_of_the_task(cluster: Cluster) -> None:
    with pytest.raises(TaskRaised, match=r"called sys\.exit\(3\)"):
        result(cluster, "die", "exit")


def test_only_plain_data_crosses_in_either_direction(cluster: Cluster) -> None:
    with pytest.raises(TypeError, match=r"the argument\['a'\]\[1\] is of type set"):
        cluster.submit(f"{HERE}:echo", {"a": [1, {2}]})
    with pytest.raises(TypeError, match="has the key 3 of type int"):
        require_plain({3: 1}, "it")
    with pytest.raises(TaskRaised, match=r"the result of tests\.test_cluster:misbehave is of type object"):
        result(cluster, "misbehave", "object")


def test_a_stopped_or_deaf_task_can_be_cancelled_and_its_process_dies(cluster: Cluster, tmp_path: Path) -> None:
    for number, function in enumerate(("stop", "ignore_everything")):
        path = tmp_path / str(number)
        handle = cluster.submit(f"{HERE}:{function}", str(path))
        pid = wait_for(path)
        cluster.cancel(handle)
        with pytest.raises(WorkerDied) as caught:
            cluster.result(handle)
        assert caught.value.reason == "cancelled"
        end = time.monotonic() + 20
        while psutil.pid_exists(pid) and time.monotonic() < end:
            time.sleep(0.05)
        assert not psutil.pid_exists(pid)
    # Both places are free again.
    handles = [cluster.submit(f"{HERE}:double", number) for number in range(4)]
    assert [cluster.result(handle) for handle in handles] == [0, 2, 4, 6]


def test_a_request_that_can_never_be_met_fails_before_the_start(cluster: Cluster) -> None:
    with pytest.raises(PreflightError, match=r"vocabulary needs 1 worker\(s\) of 64 CPU"):
        cluster.submit(f"{HERE}:double", 1, cpus=64, label="vocabulary")
    with pytest.raises(PreflightError, match=r"1048576\.0 GiB"):
        cluster.require(memory_bytes=2**50)
    with pytest.raises(PreflightError, match="the cluster can hold 2"):
        cluster.require(cpus=1, workers=3)
    with pytest.raises(PreflightError, match="4 GPU"):
        cluster.require(gpus=4)
    cluster.require(cpus=1, workers=2, memory_bytes=1)


def test_memory_asked_for_is_granted_in_turn(cluster: Cluster) -> None:
    node = cluster.nodes()[0]
    handles = [cluster.submit(f"{HERE}:double", number, memory_bytes=int(node.memory_bytes * 0.6)) for number in range(3)]
    assert [cluster.result(handle) for handle in handles] == [0, 2, 4]


def test_workers_import_the_drivers_copy_of_the_program(cluster: Cluster) -> None:
    import pipeline

    found = result(cluster, "place", None)
    assert isinstance(found, dict)
    assert found["file"] == pipeline.__file__
    assert found["pid"] != os.getpid()
    assert found["threads"] == "1"


def test_another_copy_of_the_program_on_the_worker_is_refused() -> None:
    from pipeline.remote import run_named

    with pytest.raises(PreflightError, match="the workers import `pipeline` from"):
        run_named("/elsewhere", f"{HERE}:double", 1)
    assert run_named(str(ROOT), f"{HERE}:double", 1) == 2


def test_the_local_ray_listens_on_loopback_only_with_a_token_of_its_own(cluster: Cluster, folder: Path) -> None:
    result(cluster, "double", 1)
    addresses: set[str] = set()
    commands: list[str] = []
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):  # a worker that has nothing to do may end meanwhile
            commands.append(" ".join(process.cmdline()))
            addresses |= {each.laddr.ip for each in process.net_connections(kind="inet") if each.status == psutil.CONN_LISTEN}
    assert len(commands) > 3 and any("raylet" in command for command in commands)
    assert addresses
    assert addresses <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
    tokens = list(folder.glob("xlm-*/token")) or list(Path("/tmp").glob("xlm-*/token"))
    mine = [token for token in tokens if str(token) == os.environ["RAY_AUTH_TOKEN_PATH"]]
    assert [stat.S_IMODE(token.stat().st_mode) for token in mine] == [0o600]
    assert stat.S_IMODE(mine[0].parent.stat().st_mode) == 0o700
    token = mine[0].read_text()
    found = result(cluster, "environment", None)
    assert isinstance(found, dict)
    assert found["RAY_AUTH_MODE"] == "token"
    assert all(token not in value for value in found.values())
    assert all(token not in command for command in commands)


@pytest.mark.slow
def test_a_client_without_the_token_is_refused(cluster: Cluster) -> None:
    import ray

    address = ray.get_runtime_context().gcs_address
    script = f"import ray\ntry:\n    ray.init(address={address!r})\nexcept Exception as error:\n    print(type(error).__name__, error)\n"
    child = {name: value for name, value in os.environ.items() if name != "RAY_AUTH_TOKEN_PATH"}
    for token, is_refused in (("0" * 64, True), (Path(os.environ["RAY_AUTH_TOKEN_PATH"]).read_text(), False)):
        done = subprocess.run(
            [sys.executable, "-c", script], env=child | {"RAY_AUTH_TOKEN": token}, cwd=ROOT, capture_output=True, text=True, timeout=120
        )
        assert done.stdout.startswith("ConnectionError") == is_refused, done.stdout + done.stderr
        assert ("InvalidAuthToken" in done.stderr) == is_refused


def test_an_address_where_nothing_listens_fails_at_once() -> None:
    for address in (f"127.0.0.1:{free_port()}", "no-port", "127.0.0.1:x"):
        with pytest.raises(PreflightError, match="no Ray could be joined"):
            Cluster.open(ClusterSettings(address=address))


def test_a_handshake_of_a_local_ray_asks_nothing(cluster: Cluster) -> None:
    cluster.handshake({"no-such-package": "1"}, "nowhere:nothing", None)


def test_a_node_report_holds_version_code_libraries_and_token(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("abc")
    argument = {"libraries": ["pyarrow", "no-such-package"], "reader": f"{HERE}:read_text", "argument": str(tmp_path / "token")}
    report = node_report(argument)
    assert report["python"] == f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert report["code"] == code_digest()
    assert set(report["libraries"]) == {"pyarrow"}
    assert (report["token"], report["error"]) == ("abc", "")
    assert "FileNotFoundError" in node_report({**argument, "argument": str(tmp_path / "none")})["error"]


def test_what_a_machine_compiled_is_not_part_of_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "digested_package"
    (package / "__pycache__").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(remote, "PACKAGES", ("digested_package",))
    before = code_digest()
    for name in ("kernels.count-36.py311.nbi", "kernels.count-36.py311.1.nbc", "kernels.cpython-311.pyc"):
        (package / "__pycache__" / name).write_bytes(b"of this processor")
    assert code_digest() == before
    (package / "rules.json").write_text("{}")
    assert code_digest() != before


def test_addresses_that_cannot_work_are_refused() -> None:
    for address in ("ray://host:10001", "http://host:8265"):
        with pytest.raises(PreflightError, match="only host:port"):
            Cluster.open(ClusterSettings(address=address))


# Whole processes

DRIVER = """
import os, signal, sys
from pathlib import Path
from pipeline.cluster import Cluster, ClusterSettings

def on_term(number, frame):
    print("HANDLER", flush=True)
    sys.exit(143)

signal.signal(signal.SIGTERM, on_term)
before = dict(os.environ)
with Cluster.open(ClusterSettings(workers=1), temp_dir=Path(sys.argv[1])) as cluster:
    if sys.argv[2] == "die":
        try:
            cluster.result(cluster.submit("tests.test_cluster:die", "kill"))
        except Exception as error:
            print(type(error).__name__)
    doubled = cluster.result(cluster.submit("tests.test_cluster:double", 4))
    naps = [cluster.submit("tests.test_cluster:nap", 300.0)] if sys.argv[2] == "hang" else []
    print(doubled, flush=True)  # a signal that is sent now finds the driver waiting, not in the middle of a call that loses what its handler raises
    if naps:
        cluster.wait(naps, 300)
changed = {name for name in before.keys() | os.environ.keys() if before.get(name) != os.environ.get(name)}
assert changed <= {"RAY_CLIENT_MODE", "PYTHONBREAKPOINT"}, changed  # Ray's import sets these
print("END", flush=True)
"""


def start_driver(folder: Path, mode: str) -> subprocess.Popen[str]:
    child = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    child |= {"HOME": str(folder / "home"), "PYTHONPATH": str(ROOT)}
    (folder / "home").mkdir()
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(folder), mode], env=child, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def gone(processes: list[psutil.Process], timeout_s: float) -> bool:
    return not psutil.wait_procs(processes, timeout=timeout_s)[1]


def test_a_local_run_is_quiet_quick_and_leaves_nothing(short_folder: Path) -> None:
    started_at_s = time.monotonic()
    process = start_driver(short_folder, "die")
    output, errors = process.communicate(timeout=60)
    assert output.split() == ["WorkerDied", "8", "END"]
    assert errors == ""
    assert time.monotonic() - started_at_s < 30
    assert list(short_folder.glob("xlm-*")) == []
    assert list((short_folder / "home").iterdir()) == []


def test_a_signal_reaches_the_drivers_own_handler_and_ray_stops(short_folder: Path) -> None:
    process = start_driver(short_folder, "hang")
    assert process.stdout is not None
    assert process.stdout.readline() == "8\n"
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=60)
    assert output == "HANDLER\n"
    assert (process.returncode, errors) == (143, "")
    assert children
    assert gone(children, 15)
    assert list(short_folder.glob("xlm-*")) == []


@pytest.mark.slow
def test_a_killed_driver_takes_its_ray_along_and_the_next_run_sweeps_its_folder(short_folder: Path) -> None:
    process = start_driver(short_folder, "hang")
    assert process.stdout is not None
    assert process.stdout.readline() == "8\n"
    children = psutil.Process(process.pid).children(recursive=True)
    (left,) = short_folder.glob("xlm-*")
    names = {child.pid: child.name() for child in children}
    process.kill()
    process.wait(timeout=10)
    assert gone([child for child in children if "Agent" not in names[child.pid]], 30)
    assert left.exists()
    (short_folder / "home").rmdir()
    output, errors = start_driver(short_folder, "plain").communicate(timeout=60)
    assert (output.split(), errors) == (["8", "END"], "")
    assert list(short_folder.glob("xlm-*")) == []


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder with a path short enough for sockets, which pytest's is not."""
    with tempfile.TemporaryDirectory(prefix="t-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield Path(folder)
