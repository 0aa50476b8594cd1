"""A run as a job of a cluster that somebody else started: `ray job submit --working-dir . -- python -m pipeline run pipeline.yaml storage=…`.

The head has a home, a temporary folder, ports and a token of its own, and is ended through its own process: `ray stop` would end every Ray of the machine.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end import tiny

pytestmark = pytest.mark.cluster


@dataclass(frozen=True)
class Server:
    """A job server: its address, the environment of those who know its token, and the folder that is sent."""

    address: str
    environment: dict[str, str]
    project: Path


@dataclass(frozen=True)
class Job:
    """How a job ended: what `ray job submit` returned and printed, and what the server keeps of it."""

    code: int
    output: list[str]
    info: dict[str, Any]
    log: list[str]


def _free_ports(number: int) -> list[int]:
    probes = [socket.socket() for _ in range(number)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A head with a token and two cores, and a project folder that holds the program, as a clone does, and a tiny pipeline."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "token").write_text("0123456789abcdef0123456789abcdef")
    (folder / "token").chmod(0o600)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTHONPATH"))}
    environment = {
        **kept, "HOME": str(folder), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / "token"), "NO_COLOR": "1",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }  # fmt: skip
    project = folder / "project"
    tiny.make(project)
    for package in ("pipeline", "stages"):
        shutil.copytree(tiny.ROOT / package, project / package, ignore=shutil.ignore_patterns("__pycache__"))
    gcs, dashboard, agent, client = _free_ports(4)
    short = Path(f"/tmp/e{os.getpid()}")
    head = subprocess.Popen(
        [
            "ray", "start", "--head", "--block", f"--port={gcs}", f"--dashboard-port={dashboard}",
            f"--dashboard-agent-listen-port={agent}", f"--ray-client-server-port={client}", "--min-worker-port=0", "--max-worker-port=0",
            "--num-cpus=2", "--object-store-memory=200000000", "--disable-usage-stats", f"--temp-dir={short}",
        ],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    found = Server(f"http://127.0.0.1:{dashboard}", environment, project)
    try:
        _wait_for(found, head)
        yield found
    finally:
        head.terminate()
        try:
            head.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(head.pid, signal.SIGKILL)
        shutil.rmtree(short, ignore_errors=True)


def _wait_for(server: Server, head: subprocess.Popen[bytes]) -> None:
    """Until the job server answers with a list of its jobs."""
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        assert head.poll() is None, "ray start ended"
        command = ["ray", "job", "list", "--address", server.address]
        if subprocess.run(command, env=server.environment, capture_output=True, timeout=120).returncode == 0:
            return
        time.sleep(1)
    raise AssertionError("the job server did not come up")


def _submit(server: Server, *arguments: str, timeout: float = 600) -> Job:
    name = f"job-{time.monotonic_ns()}"
    done = subprocess.run(
        ["ray", "job", "submit", "--address", server.address, "--submission-id", name, "--working-dir", ".", "--", "python", "-m", "pipeline", "run", *arguments],
        cwd=server.project, env=server.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout,
    )  # fmt: skip
    script = (
        "import json, sys, time\n"
        "from ray.job_submission import JobSubmissionClient\n"
        "client = JobSubmissionClient(sys.argv[1])\n"
        "info = client.get_job_info(sys.argv[2])\n"
        "while not info.status.is_terminal():\n"
        "    time.sleep(1); info = client.get_job_info(sys.argv[2])\n"
        "found = {'status': str(info.status.value), 'message': info.message, 'code': info.driver_exit_code}\n"
        "print(json.dumps({'info': found, 'log': client.get_job_logs(sys.argv[2])}))\n"
    )
    asked = subprocess.run(
        [sys.executable, "-c", script, server.address, name],
        env=server.environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=timeout,
    )
    kept = json.loads(asked.stdout.splitlines()[-1])
    return Job(done.returncode, done.stdout.splitlines(), kept["info"], kept["log"].split("\n"))


def test_a_run_is_a_job_that_succeeds_and_whose_log_reads_line_by_line(server: Server, tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    arguments = ("pipeline.yaml", f"storage={storage}", "stages.finetune=null", "stages.evaluate=null", "stages.report=null")
    job = _submit(server, *arguments)
    assert (job.code, job.info["status"], job.info["code"]) == (0, "SUCCEEDED", 0), "\n".join(job.output)
    lines = [line for line in job.log if line]
    assert lines[-1] == "PIPELINE_EXIT=0"
    assert not any("\r" in line or "\x1b" in line for line in lines)  # a bar that redraws itself is no log
    plain = re.compile(
        r"\d\d:\d\d:\d\d [IW] \S|[a-z_]+ +(ran|done|reused) +[\d.]+ *[\d.]*$|stage +state +seconds|[A-Za-z-]+: |total [\d.]+ s|PIPELINE_EXIT=0$"
    )
    ours = [line for line in lines if not re.match(r"\d{4}-\d\d-\d\d .* -- |Running entrypoint|Tip: ", line)]
    strange = [line for line in ours if not plain.match(line)]
    assert not strange, strange[:10]
    order = [
        next(number for number, line in enumerate(ours) if f"] {stage}: " in line)
        for stage in ("ingest", "dedup", "pack", "pretrain", "export")
    ]
    assert order == sorted(order)
    made = tiny.manifests(storage)
    assert set(made) >= {*tiny.DATA_STAGES, "pretrain", "export"}
    assert tiny.temporary(storage) == []

    again = _submit(server, *arguments)
    assert again.info["status"] == "SUCCEEDED"
    assert "tiny: up to date; nothing to do (11 stages)." in again.log


def test_a_failing_stage_makes_the_job_fail_with_the_reason_in_its_last_ten_lines(server: Server, tmp_path: Path) -> None:
    job = _submit(
        server,
        "pipeline.yaml",
        f"storage={tmp_path / 'storage'}",
        "stages.dedup.length.min_characters=900000",
        "stages.vocabulary.bitext=false",
        "--until",
        "vocabulary",
    )
    assert (job.code, job.info["status"], job.info["code"]) == (1, "FAILED", 4), "\n".join(job.output)
    kept = job.info["message"].splitlines()
    assert kept[-1].strip() == "PIPELINE_EXIT=4"
    reason = [line for line in kept[-10:] if "error: vocabulary: there is no text to learn words from" in line]
    assert len(reason) == 1, job.info["message"]


def test_a_storage_in_the_folder_that_ray_removes_is_refused(server: Server) -> None:
    job = _submit(server, "pipeline.yaml", "storage=./kept")
    assert (job.info["status"], job.info["code"]) == ("FAILED", 2), "\n".join(job.output)
    assert "lies in the job's working_dir, which Ray removes" in job.info["message"]
    assert job.info["message"].splitlines()[-1].strip() == "PIPELINE_EXIT=2"
