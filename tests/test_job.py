"""Jobs: the command that is sent, and following a job whose log stream breaks; at the end, on a real job server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline import job
from pipeline.errors import ConfigError, InterruptedRunError, PreflightError, StageError

ROOT = Path(__file__).resolve().parent.parent

# the command


def test_every_argument_reaches_the_program_as_it_was_given(tmp_path: Path) -> None:
    (tmp_path / "my file.yaml").write_text("")
    overrides = [
        "name=a b",
        "storage=$(touch pwned)",
        "stages.x.path='*'; rm -rf ~",
        "languages=[en, de]",
        "x=${env:SECRET}",
        "y=`id`",
        "z=\n",
    ]
    line = job.command(Path("my file.yaml"), overrides, tmp_path)
    assert shlex.split(line) == ["python", "-m", "pipeline", "run", "my file.yaml", *overrides]
    echoed = subprocess.run(
        ["bash", "-c", line.replace("python -m", f"{sys.executable} -c 'import sys, json; print(json.dumps(sys.argv[1:]))'", 1)],
        capture_output=True, text=True, check=True, cwd=tmp_path,
    )  # fmt: skip
    assert json.loads(echoed.stdout)[2:] == ["my file.yaml", *overrides]
    assert [path.name for path in tmp_path.iterdir()] == ["my file.yaml"]


def test_an_absolute_path_below_the_folder_becomes_relative_and_one_outside_is_refused(tmp_path: Path) -> None:
    assert job.command(tmp_path / "clusters" / "p.yaml", (), tmp_path).endswith("run clusters/p.yaml")
    for outside in (Path("../p.yaml"), Path("/etc/p.yaml"), tmp_path.parent / "p.yaml"):
        with pytest.raises(ConfigError, match="lies outside the current folder"):
            job.command(outside, (), tmp_path)


def test_an_override_with_a_password_is_refused_and_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        job.command(Path("p.yaml"), ("tracking.uri=https://me:secret@mlflow.example",), tmp_path)
    assert "tracking.uri" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_an_address_that_is_no_job_server_is_a_config_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="http://head:8265"):
        job.submit("head:6379", Path("p.yaml"), (), print)


# following, with a job server of our own making


class _Client:
    """A job whose log grows by `step` characters an attempt, and whose stream always breaks before the end."""

    def __init__(self, log: str, *, status: str = "SUCCEEDED", code: int | None = 0, breaks: int = 3, message: str = "") -> None:
        self.log, self.status, self.code, self.breaks, self.message = log, status, code, breaks, message
        self.streams = 0
        self.sent: dict[str, Any] = {}

    def submit_job(self, **sent: Any) -> str:
        self.sent = sent
        return "raysubmit_1"

    async def tail_job_logs(self, _: str) -> AsyncIterator[str]:
        self.streams += 1
        until = len(self.log) * self.streams // (self.breaks + 1)
        for start in range(0, until, 7):
            yield self.log[start : min(start + 7, until)]
        if self.streams <= self.breaks:
            raise RuntimeError("WebSocket connection closed unexpectedly with close code 1006")

    def get_job_info(self, _: str) -> SimpleNamespace:
        done = self.streams > self.breaks
        return SimpleNamespace(
            status=self.status if done else "RUNNING", driver_exit_code=self.code if done else None, message=self.message
        )

    def get_job_logs(self, _: str) -> str:
        return self.log


@pytest.fixture
def follow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(job.time, "sleep", lambda _: None)

    def submitted(client: Any) -> tuple[int, list[str]]:
        monkeypatch.setattr(job, "_client", lambda _: client)
        lines: list[str] = []
        return job.submit("http://head:8265", Path("p.yaml"), ("a=b",), lines.append), lines

    return submitted


def test_ctrl_c_is_heard_even_where_the_stream_takes_it_for_its_own_end(follow: Any) -> None:
    class Deaf(_Client):
        async def tail_job_logs(self, _: str) -> AsyncIterator[str]:
            self.streams += 1
            if self.streams > 1:
                return
            yield "a line\n"
            os.kill(os.getpid(), signal.SIGINT)
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(60)

    with pytest.raises(InterruptedRunError, match="ray job stop"):
        follow(Deaf("a line\n", breaks=1))


def test_a_log_is_printed_once_line_by_line_however_often_its_stream_breaks(follow: Any) -> None:
    log = "".join(f"line {number} äöü 語\n" for number in range(50)) + "no end of line"
    client = _Client(log, breaks=5)
    code, lines = follow(client)
    assert (code, client.streams) == (0, 6)
    assert lines[1:] == log.split("\n")
    assert lines[0] == "job raysubmit_1 at http://head:8265: python -m pipeline run p.yaml a=b"
    assert client.sent["entrypoint"] == "python -m pipeline run p.yaml a=b"
    assert client.sent["runtime_env"]["working_dir"] == "."
    assert ".git" in client.sent["runtime_env"]["excludes"]
    assert "env_vars" not in client.sent["runtime_env"]


def test_what_the_stream_never_gave_is_read_from_the_log_at_the_end(follow: Any) -> None:
    class Cut(_Client):
        async def tail_job_logs(self, _: str) -> AsyncIterator[str]:
            self.streams += 1
            yield self.log[:10]

    _, lines = follow(Cut("first\nsecond\nlast\n", breaks=1))
    assert lines[1:] == ["first", "second", "last"]


@pytest.mark.parametrize(
    ("status", "code", "log", "expected"),
    [
        ("SUCCEEDED", 0, "x\nPIPELINE_EXIT=0\n", 0),
        ("FAILED", 7, "x\nPIPELINE_EXIT=7\n", 7),
        ("FAILED", None, "x\nPIPELINE_EXIT=6\n", 6),
        ("FAILED", None, "PIPELINE_EXIT=6 said the text\n", 4),
        ("FAILED", -9, "x\n", 137),
        ("FAILED", 0, "x\n", 4),
        ("STOPPED", None, "x\nPIPELINE_EXIT=143\n", 143),
        ("STOPPED", None, "x\n", 143),
    ],
)
def test_the_code_is_the_runs_own_and_never_zero_for_a_job_that_failed(
    status: str, code: int | None, log: str, expected: int, follow: Any
) -> None:
    assert follow(_Client(log, status=status, code=code))[0] == expected


def test_a_job_that_failed_before_its_first_line_says_why(follow: Any) -> None:
    _, lines = follow(_Client("", status="FAILED", code=None, message="runtime env setup failed\nno space"))
    assert lines[1:] == ["runtime env setup failed", "no space"]


def test_a_server_out_of_reach_for_too_long_ends_the_following_with_a_word_on_the_job(follow: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Away(_Client):
        def get_job_info(self, _: str) -> SimpleNamespace:
            raise ConnectionError

    monkeypatch.setattr(job, "SILENCE_S", -1.0)
    with pytest.raises(StageError, match=r"may go on.*ray job stop --address http://head:8265 raysubmit_1"):
        follow(Away("x\n", breaks=99))


def test_an_interrupt_stops_following_and_says_how_to_stop_the_job(follow: Any) -> None:
    class Interrupted(_Client):
        def get_job_info(self, _: str) -> SimpleNamespace:
            raise KeyboardInterrupt

    with pytest.raises(InterruptedRunError, match=r"which goes on\. To stop it: ray job stop --address http://head:8265 raysubmit_1"):
        follow(Interrupted("x\n"))


def test_a_job_that_is_not_taken_is_a_preflight_error(follow: Any) -> None:
    class Refusing(_Client):
        def submit_job(self, **sent: Any) -> str:
            raise RuntimeError("\nPackage size 600MiB exceeds the maximum size of 512MiB\nmore")

    with pytest.raises(PreflightError, match="not taken by http://head:8265: Package size 600MiB exceeds"):
        follow(Refusing(""))


def test_the_environment_is_put_back_and_the_address_given_is_the_one_used(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://other:8265")
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):  # a local Ray in this process sets them
        monkeypatch.delenv(name, raising=False)
    before = dict(os.environ)
    with job._environment("http://head:8265"):
        assert "RAY_ADDRESS" not in os.environ
        assert os.environ["RAY_AUTH_MODE"] == "disabled"
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text("t")
    with job._environment("http://head:8265"):
        assert os.environ["RAY_AUTH_MODE"] == "token"
    assert dict(os.environ) == before


# a real job server


FAKE = """
import json, os, sys, time
print(json.dumps({"argv": sys.argv[1:], "cwd": os.getcwd(), "files": sorted(os.listdir())}), flush=True)
if "wait=true" in sys.argv:
    time.sleep(120)
for number in range(25):
    print("line", number, flush=True)
print("PIPELINE_EXIT=7")
sys.exit(7)
"""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, str]]]:
    """A job server with a token; its address, and the environment of those who know the token."""
    folder = tmp_path_factory.mktemp("server")
    token = folder / "token"
    token.write_text("0123456789abcdef0123456789abcdef")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment = {
        **kept, "HOME": str(folder), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_JOB_STOP_WAIT_TIME_S": "1",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }  # fmt: skip
    gcs, dashboard, agent, client = (_free_port() for _ in range(4))
    short = f"/tmp/j{os.getpid()}"
    head = subprocess.Popen(
        [
            "ray", "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={gcs}", f"--dashboard-port={dashboard}",
            f"--dashboard-agent-listen-port={agent}", f"--ray-client-server-port={client}", "--min-worker-port=0", "--max-worker-port=0",
            "--num-cpus=1", "--object-store-memory=100000000", "--disable-usage-stats", f"--temp-dir={short}",
        ],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", dashboard)) == 0:
                    break
            time.sleep(0.5)
        time.sleep(3)
        yield f"http://127.0.0.1:{dashboard}", environment
    finally:
        head.terminate()
        try:
            head.wait(60)
        except subprocess.TimeoutExpired:
            head.kill()
        subprocess.run(["rm", "-rf", short], check=False)


def _start(server: tuple[str, dict[str, str]], folder: Path, *overrides: str, **changes: str) -> subprocess.Popen[str]:
    """`submit` in a process of its own, in a folder whose `pipeline` is the program below."""
    (folder / "pipeline").mkdir(exist_ok=True)
    # With an `__init__`, for a namespace package gives way to the program where it is installed.
    (folder / "pipeline" / "__init__.py").touch()
    (folder / "pipeline" / "__main__.py").write_text(FAKE)
    (folder / ".git").mkdir(exist_ok=True)
    (folder / ".git" / "config").write_text("secret")
    (folder / "p.yaml").write_text("name: sent\n")
    script = (
        "import sys; from pathlib import Path; from pipeline import job; from pipeline.errors import PipelineError\n"
        "try:\n"
        "    sys.exit(job.submit(sys.argv[1], Path('p.yaml'), sys.argv[2:], lambda line: print(line, flush=True)))\n"
        "except PipelineError as error:\n"
        "    print('error:', error, flush=True); sys.exit(error.exit_code)\n"
    )
    return subprocess.Popen(
        [sys.executable, "-P", "-c", script, server[0], *overrides],
        cwd=folder, env={**server[1], "PYTHONPATH": str(ROOT), **changes}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def _until(process: subprocess.Popen[str], start: str) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(start):
            return line
    raise AssertionError(f"no line began with {start!r}")


@pytest.mark.cluster
def test_a_job_gets_the_folder_its_log_is_followed_and_its_code_is_ours(server: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    process = _start(server, tmp_path, "storage=$(touch pwned) 'x'", RAY_ADDRESS="http://127.0.0.1:1")
    output = process.communicate(timeout=120)[0].splitlines()
    assert process.returncode == 7, output
    first = next(index for index, line in enumerate(output) if line.startswith('{"argv"'))
    report = json.loads(output[first])
    assert report["argv"] == ["run", "p.yaml", "storage=$(touch pwned) 'x'"]
    assert report["files"] == ["p.yaml", "pipeline"]
    assert output[first + 1 : first + 27] == [*(f"line {number}" for number in range(25)), "PIPELINE_EXIT=7"]


@pytest.mark.cluster
def test_without_the_token_nothing_is_taken(server: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    (tmp_path / "other").write_text("f" * 32)
    process = _start(server, tmp_path, RAY_AUTH_TOKEN_PATH=str(tmp_path / "other"))
    output = process.communicate(timeout=60)[0]
    assert process.returncode == PreflightError.exit_code, output
    assert "export RAY_AUTH_TOKEN_PATH" in output


@pytest.mark.cluster
def test_ctrl_c_leaves_the_job_running_and_the_command_it_names_stops_it(server: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    process = _start(server, tmp_path, "wait=true")
    name = _until(process, "job ").split()[1]
    _until(process, '{"argv"')
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=30)[0]
    assert process.returncode == InterruptedRunError.exit_code
    stop = output[output.index("ray job stop") :].strip()
    again = _watch(server, name)
    assert again == "RUNNING"
    subprocess.run(shlex.split(stop), check=True, env=server[1], capture_output=True, timeout=60)
    assert _watch(server, name) == "STOPPED"


@pytest.mark.cluster
@pytest.mark.fault("K6")
def test_a_job_stopped_by_another_ends_with_the_code_of_a_termination(server: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    process = _start(server, tmp_path, "wait=true")
    name = _until(process, "job ").split()[1]
    _until(process, '{"argv"')
    subprocess.run(["ray", "job", "stop", "--address", server[0], name], check=True, env=server[1], capture_output=True, timeout=60)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 143, output
    assert f"job {name} was stopped" in output


def _watch(server: tuple[str, dict[str, str]], name: str) -> str:
    script = "import sys; from ray.job_submission import JobSubmissionClient as C; print(C(sys.argv[1]).get_job_status(sys.argv[2]))"
    done = subprocess.run(
        [sys.executable, "-c", script, server[0], name], env=server[1], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.split()[-1]
