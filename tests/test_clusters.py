"""The files in clusters/: they parse, fit the schemas that are at hand, ask for a token everywhere, and extend the pipeline at the top."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from ruamel.yaml import YAML

from pipeline import cli
from pipeline.config import PipelineConfig, parse_section
from pipeline.document import read
from pipeline.gang_sizes import undivided
from stages.finetune import Config as FinetuneConfig
from stages.pretrain import Config as PretrainConfig

ROOT = Path(__file__).resolve().parent.parent
CLUSTERS = ROOT / "clusters"
FILES = sorted(path for path in CLUSTERS.rglob("*") if path.is_file())
PIPELINES = sorted(CLUSTERS.glob("*/pipeline.yaml"))
LAUNCHERS = sorted(CLUSTERS.glob("*/ray.yaml"))
SCRIPT = CLUSTERS / "slurm" / "run.sbatch"
RECIPES = ("xlm-r-base",)
"""Those that train something else than the pipeline at the top."""


def _load(path: Path) -> list[Any]:
    return list(YAML(typ="safe", pure=True).load_all(path.read_text()))


def _of_kind(path: Path, kind: str) -> dict[str, Any]:
    (found,) = (document for document in _load(path) if document["kind"] == kind)
    return dict(found)


def _values(value: Any, name: str) -> list[Any]:
    """Every value filed under `name`, at any depth."""
    if isinstance(value, dict):
        return [item for key, inner in value.items() for item in ([inner] if key == name else []) + _values(inner, name)]
    return [item for inner in value for item in _values(inner, name)] if isinstance(value, list) else []


def test_the_recipe_for_64_gpus_can_be_planned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A dry run: the whole file is checked, and what it needs is told."""
    for name in ("XLM_STORAGE", "XLM_CORPUS"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:5000")
    file = CLUSTERS / "xlm-r-base" / "pipeline.yaml"
    done = CliRunner().invoke(
        cli.commands, ["plan", str(file), "--capacity", "--nodes", "8", "--gpus", "8", "--gpu", "h100", "--text-gb", "2400"]
    )
    assert done.exit_code == 0, done.output
    assert "xlm-r-base, 278,295,186 parameters (250,002 ids, rows of 512 tokens)" in done.output
    assert "64 ranks, micro-batch 64, 2 of them a step, bf16" in done.output and "smallest stage that fits: 0" in done.output
    assert "1,500,000 steps: 6,291.5 billion tokens" in done.output
    assert list(tmp_path.iterdir()) == [], "nothing is created"
    recipe = read(file).data["stages"]["pretrain"]
    assert (recipe["objectives"], recipe["optimizer"], recipe["dropout"]) == ({"mlm": 1.0}, "adamw", 0.1), "the paper's, not the sample's"
    other = CliRunner().invoke(cli.commands, ["plan", str(file), "--capacity", "--nodes", "8", "stages.pretrain.architecture=modernbert"])
    assert other.exit_code == 0 and "xlm-r-base as modernbert, 306" in other.output, other.output


# all of them


def test_there_is_no_python_and_each_place_has_its_pipeline() -> None:
    assert [path for path in FILES if path.suffix == ".py"] == []
    assert {path.parent.name for path in PIPELINES} == {path.name for path in CLUSTERS.iterdir() if path.is_dir()}
    assert {path.parent.name for path in LAUNCHERS} == {"aws", "on-premises"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CLUSTERS)))
def test_each_file_says_what_has_been_run_of_it(path: Path) -> None:
    text = path.read_text()
    assert re.search(r"[Nn]ot run", text)
    assert all(len(line) <= 160 for line in text.splitlines())


@pytest.mark.parametrize("path", [path for path in FILES if path.suffix == ".yaml"], ids=lambda path: str(path.relative_to(CLUSTERS)))
def test_each_yaml_parses_and_binds_nothing_to_all_interfaces(path: Path) -> None:
    assert _load(path)
    text = path.read_text()
    assert "0.0.0.0" not in text
    assert "disabled" not in text


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.parent.name)
def test_each_pipeline_extends_the_one_at_the_top_and_is_sound(path: Path) -> None:
    (own,) = _load(path)
    assert own["extends"] == "../../pipeline.yaml"
    assert "storage" in own
    document = read(path)
    assert (document.data["stages"] == read(ROOT / "pipeline.yaml").data["stages"]) == (path.parent.name not in RECIPES)
    settings, problems = parse_section(PipelineConfig, document, (), dict(document.data))
    assert problems == []
    assert settings is not None
    assert settings.storage == own["storage"]
    for stage, default in (("pretrain", PretrainConfig), ("finetune", FinetuneConfig)):
        batch = (document.data["stages"].get(stage) or {}).get("global_batch", default.model_fields["global_batch"].default)
        assert undivided(settings.cluster.workers, batch) is None


# Ray's launcher


@pytest.mark.parametrize("path", LAUNCHERS, ids=lambda path: path.parent.name)
def test_each_launcher_file_fits_rays_schema(path: Path) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    (config,) = _load(path)
    prepared = prepare_config(config)
    validate_config(prepared)
    assert prepared["max_workers"] == sum(kind.get("max_workers", 0) for kind in prepared["available_node_types"].values())


@pytest.mark.parametrize("path", LAUNCHERS, ids=lambda path: path.parent.name)
def test_every_start_of_ray_has_the_token_and_the_job_server_stays_on_loopback(path: Path) -> None:
    (config,) = _load(path)
    starts = {kind: [c for c in config[f"{kind}_start_ray_commands"] if "ray start" in c] for kind in ("head", "worker")}
    for commands in starts.values():
        (command,) = commands
        assert command.index("RAY_AUTH_MODE=token") < command.index("ray start")
        assert subprocess.run(["bash", "-n", "-c", command], check=False).returncode == 0
    assert "--dashboard-host=127.0.0.1" in starts["head"][0]
    assert "--head" in starts["head"][0]
    assert "--address=$RAY_HEAD_IP:6379" in starts["worker"][0]
    assert "~/.ray/auth_token" in config["file_mounts"]
    assert "chmod 600 ~/.ray/auth_token" in config["setup_commands"]


def test_on_aws_no_group_is_left_to_be_made_which_would_open_ssh_to_all() -> None:
    (config,) = _load(CLUSTERS / "aws" / "ray.yaml")
    assert config["provider"]["use_internal_ips"] is True
    for kind in config["available_node_types"].values():
        assert kind["node_config"]["SecurityGroupIds"]
        assert kind["node_config"]["SubnetIds"]
        assert kind["node_config"]["MetadataOptions"] == {"HttpTokens": "required"}


# Kubernetes


def test_the_rayjob_ends_retries_and_cleans_up_by_its_own_rules() -> None:
    job = _of_kind(CLUSTERS / "kuberay" / "rayjob.yaml", "RayJob")
    spec = job["spec"]
    assert job["apiVersion"] == "ray.io/v1"
    assert spec["backoffLimit"] >= 1
    assert spec["submitterConfig"]["backoffLimit"] >= 1
    assert spec["activeDeadlineSeconds"] > 0
    assert spec["shutdownAfterJobFinishes"] is True
    assert "deletionStrategy" not in spec  # KubeRay refuses the two together
    assert spec["entrypoint"].startswith("python -m pipeline run ")
    assert "--wait" in spec["entrypoint"]  # attempts may overlap


def test_the_rayjob_asks_for_a_token_and_only_its_own_pods_reach_it() -> None:
    path = CLUSTERS / "kuberay" / "rayjob.yaml"
    cluster = _of_kind(path, "RayJob")["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    templates = [cluster["headGroupSpec"]["template"], *(group["template"] for group in cluster["workerGroupSpecs"])]
    policy = _of_kind(path, "NetworkPolicy")["spec"]
    assert policy["policyTypes"] == ["Ingress"]
    for template in templates:
        assert template["metadata"]["labels"].items() >= policy["podSelector"]["matchLabels"].items()
        assert template["spec"]["automountServiceAccountToken"] is False
    assert all(source for rule in policy["ingress"] for source in rule["from"])


def test_every_pod_of_the_rayjob_mounts_the_claim_that_is_there() -> None:
    path = CLUSTERS / "kuberay" / "rayjob.yaml"
    claim = _of_kind(path, "PersistentVolumeClaim")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for document in (_of_kind(path, "RayJob"), _of_kind(CLUSTERS / "kuberay" / "cronjob.yaml", "CronJob")):
        claims = _values(document, "claimName")
        containers = [container for group in _values(document, "containers") for container in group]
        assert len(claims) == len(containers) > 0
        assert set(claims) == {claim["metadata"]["name"]}
        storage = _load(CLUSTERS / "kuberay" / "pipeline.yaml")[0]["storage"]
        assert all(any(storage.startswith(mount["mountPath"] + "/") for mount in container["volumeMounts"]) for container in containers)


def test_all_ray_versions_and_images_are_one() -> None:
    import importlib.metadata

    cluster = _of_kind(CLUSTERS / "kuberay" / "rayjob.yaml", "RayJob")["spec"]["rayClusterSpec"]
    assert cluster["rayVersion"].rsplit(".", 1)[0] == importlib.metadata.version("ray").rsplit(".", 1)[0]
    both = [document for name in ("rayjob", "cronjob") for document in _load(CLUSTERS / "kuberay" / f"{name}.yaml")]
    assert len({image for document in both for image in _values(document, "image")}) == 1


def test_the_cronjob_never_overlaps_and_never_repeats_a_refusal() -> None:
    job = _of_kind(CLUSTERS / "kuberay" / "cronjob.yaml", "CronJob")
    assert job["apiVersion"] == "batch/v1"
    assert job["spec"]["concurrencyPolicy"] == "Forbid"
    assert job["spec"]["timeZone"]
    assert job["spec"]["jobTemplate"]["spec"]["backoffLimit"] == 0
    (container,) = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert container["command"][:4] == ["python", "-m", "pipeline", "retrain"]
    assert all(isinstance(part, str) for part in container["command"])
    assert {"name": "RAY_AUTH_MODE", "value": "token"} in container["env"]


# Slurm


def test_the_batch_script_is_sound_and_sets_its_token_before_ray_starts() -> None:
    text = SCRIPT.read_text()
    subprocess.run(["bash", "-n", SCRIPT], check=True)
    assert "set -euo pipefail" in text
    assert text.index("RAY_AUTH_MODE=token") < text.index("ray symmetric-run")
    assert "--dashboard-host=127.0.0.1" in text
    assert "--ntasks-per-node=1" in text


def _stand_ins(folder: Path, **commands: str) -> None:
    folder.mkdir()
    for name, body in commands.items():
        (folder / name).write_text(f"#!/bin/bash\n{body}\n")
        (folder / name).chmod(0o755)


def _batch(tmp_path: Path, prefix: list[str], *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "XLM_STORAGE": str(tmp_path / "store"), "XLM_VENV": str(tmp_path / "venv"), "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "node[1-1]", "SLURM_JOB_NUM_NODES": "1", "SLURM_CPUS_ON_NODE": "1", **changes,
    }  # fmt: skip
    return subprocess.run(
        [*prefix, "bash", str(SCRIPT), *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=180
    )


def test_the_batch_script_gives_its_arguments_on_and_removes_its_token(tmp_path: Path) -> None:
    python = f'exec {sys.executable} "$@"'
    srun = (
        f'printf "%s\\n" "$@" > {tmp_path}/arguments; stat -c %a "$RAY_AUTH_TOKEN_PATH" > {tmp_path}/mode\n'
        f'cp "$RAY_AUTH_TOKEN_PATH" {tmp_path}/token; echo "$RAY_AUTH_MODE" > {tmp_path}/auth; exit 7'
    )
    _stand_ins(tmp_path / "bin", srun=srun, scontrol="echo localhost", python=python)
    done = _batch(tmp_path, [], "my file.yaml", "storage=$(touch pwned)")
    assert done.returncode == 7, done.stderr
    given = (tmp_path / "arguments").read_text().splitlines()
    own = given[given.index("--") + 1 :]
    assert own == ["env", "RAY_ADDRESS=127.0.0.1:20007", "python", "-m", "pipeline", "run", "my file.yaml", "storage=$(touch pwned)"]
    assert given[given.index("ray") + 1 : given.index("--dashboard-host=127.0.0.1")] == [
        "symmetric-run", "--address", "127.0.0.1:20007", "--min-nodes", "1",
    ]  # fmt: skip
    assert (tmp_path / "mode").read_text().strip() == "600"
    assert re.fullmatch(r"[0-9a-f]{64}", (tmp_path / "token").read_text())
    assert (tmp_path / "auth").read_text().strip() == "token"
    assert not (tmp_path / "store" / "tmp" / "slurm-7").exists()
    assert not (tmp_path / "pwned").exists()


def test_a_node_without_an_address_is_named(tmp_path: Path) -> None:
    python = f'exec {sys.executable} "$@"'
    _stand_ins(tmp_path / "bin", srun="exit 0", scontrol="echo node-9", python=python, getent="exit 2")
    done = _batch(tmp_path, [])
    assert (done.returncode, "no address is known for node-9" in done.stderr) == (3, True)


def test_the_batch_script_asks_for_a_storage(tmp_path: Path) -> None:
    _stand_ins(tmp_path / "bin", srun="exit 0", scontrol="echo localhost")
    done = _batch(tmp_path, [], XLM_STORAGE="", SCRATCH="")
    assert done.returncode != 0
    assert "set XLM_STORAGE to a folder that all nodes see" in done.stderr


@pytest.mark.cluster
def test_the_batch_script_runs_on_one_machine_with_rays_own_symmetric_run(tmp_path: Path) -> None:
    """In process and network namespaces of its own, since `ray symmetric-run` ends with a `ray stop` that would end every Ray here."""
    apart = ["unshare", "--net", "--pid", "--fork", "--mount-proc"]
    if shutil.which("unshare") is None or subprocess.run([*apart, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not make namespaces")
    program = (
        "import os, sys, json, ray\n"
        "ray.init(address=os.environ['RAY_ADDRESS'], log_to_driver=False)\n"
        "double = ray.get(ray.remote(lambda n: 2 * n).remote(21))\n"
        "print('REPORT', json.dumps([sys.argv[1:], double, len(ray.nodes()), os.environ['RAY_AUTH_MODE']]), flush=True)\n"
        "sys.exit(7)\n"
    )
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / "__init__.py").touch()  # else an installed program would be taken
    (tmp_path / "pipeline" / "__main__.py").write_text(program)
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    for name in ("python", "ray"):
        (tmp_path / "venv" / "bin" / name).write_text(f'#!/bin/bash\nexec {Path(sys.executable).parent}/{name} "$@"\n')
        (tmp_path / "venv" / "bin" / name).chmod(stat.S_IRWXU)
    # What srun does for one node: leaves out its own options and runs the rest.
    srun = 'while [[ $1 == --* ]]; do shift; done; exec "$@"'
    _stand_ins(tmp_path / "bin", srun=srun, scontrol="echo localhost", getent="echo 127.0.0.1 STREAM localhost")
    up = [*apart, "bash", "-c", 'ip link set lo up; exec "$@"', "-"]
    done = _batch(tmp_path, up, "p.yaml", "a=b c")
    assert done.returncode == 7, done.stdout + done.stderr
    assert 'REPORT [["run", "p.yaml", "a=b c"], 42, 1, "token"]' in done.stdout
    assert not (tmp_path / "store" / "tmp" / "slurm-7").exists()
    shutil.rmtree("/tmp/ray-7", ignore_errors=True)
