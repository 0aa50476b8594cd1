"""The command line: run · plan · status · show · doctor · retrain · submit · gc. The only place that prints.

Overrides are trailing arguments: `python -m pipeline run pipeline.yaml storage=/data/x stages.pretrain.steps=100`. The last line printed by a command
that runs something is `PIPELINE_EXIT=<n>`; when it fails, the nine lines above it stand alone as the error, since that is what
Ray keeps of a failed job. Exit codes are drawn in `pipeline.errors`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from pipeline.errors import EXIT_OK, ConfigError, InterruptedRunError, PipelineError

log = logging.getLogger("pipeline")

ERROR_LINES = 9
ANNOUNCED = ("run", "retrain")
"""Commands whose last line tells their exit code."""
_announced: list[int] = []


def registry() -> dict[str, str]:
    """The stages of this installation."""
    from stages import STAGES

    return STAGES


def main() -> None:
    """Entry point of `python -m pipeline` and `xlm-pipeline`."""
    try:
        commands(prog_name="python -m pipeline")
    except SystemExit as end:
        # What click itself refuses (an unknown option, no file): whoever waits for the last line gets it here too.
        if end.code == click.UsageError.exit_code and sys.argv[1:2] and sys.argv[1] in ANNOUNCED and not _announced:
            click.echo(f"PIPELINE_EXIT={end.code}")
        raise


def _logging(verbose: bool) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname).1s %(message)s", "%H:%M:%S"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for name in ("pipeline", "stages"):
        logging.getLogger(name).setLevel(logging.DEBUG if verbose else logging.INFO)


@contextlib.contextmanager
def _exit_code(verbose: bool, *, announce: bool) -> Iterator[None]:
    """Turn what happens inside into an exit code, and the code into the last line."""
    try:
        yield
        code = EXIT_OK
    except PipelineError as error:
        code = error.exit_code
        _complain(str(error), verbose)
    except KeyboardInterrupt:
        code = InterruptedRunError.exit_code
        _complain("interrupted; the same command goes on from here.", verbose)
    except MemoryError:
        code = 4
        _complain("out of memory. Give the machine more, or lower cluster.workers.", verbose)
    except OSError as error:
        code = 4
        _complain(
            f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}. Nothing half-written was published; free space and run again.",
            verbose,
        )
    except (click.ClickException, click.exceptions.Exit):
        raise
    except Exception as error:  # noqa: BLE001 - the boundary: a fault of the program still ends with a code and a reason
        code = 1
        traceback.print_exc()
        _complain(f"{type(error).__name__}: {error} (a fault of the program; the lines above say where)", verbose)
    sys.stderr.flush()
    if announce:
        _announced.append(code)
        click.echo(f"PIPELINE_EXIT={code}")
    sys.stdout.flush()
    if code != EXIT_OK:
        raise SystemExit(code)


def _complain(text: str, verbose: bool) -> None:
    if verbose and sys.exc_info()[1] is not None:
        traceback.print_exc()
    lines = text.splitlines() or [""]
    if len(lines) > ERROR_LINES:
        for line in lines:
            click.echo(line, err=True)
        # What begins a message says most: it stands in the lines that are kept of a job, and all of it above.
        lines = [*lines[: ERROR_LINES - 1], f"… and {len(lines) - ERROR_LINES + 1} more lines, all of them above"]
    click.echo("\n".join([f"error: {lines[0]}", *lines[1:]]), err=True)


verbose_option = click.option("--verbose", "-v", is_flag=True, help="Log more, and show where an error arose.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
file_argument = click.argument("file", type=click.Path(path_type=Path))
overrides_argument = click.argument("overrides", nargs=-1, metavar="[a.b=c]...")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def commands() -> None:
    """Raw text in about 100 languages in, a cross-lingual language model with its evidence out."""


@commands.command("run")
@file_argument
@overrides_argument
@click.option("--from", "start", metavar="STAGE", help="Start at this stage; what comes before must be up to date.")
@click.option("--until", metavar="STAGE", help="Stop after this stage.")
@click.option("--force", multiple=True, metavar="STAGE", help="Run this stage again even if nothing changed.")
@click.option("--wait", "wait_s", type=float, default=0.0, metavar="SECONDS", help="Wait for another run of this pipeline to end.")
@verbose_option
def run_command(
    file: Path, overrides: tuple[str, ...], start: str | None, until: str | None, force: tuple[str, ...], wait_s: float, verbose: bool
) -> None:
    """Run what is missing of the pipeline FILE."""
    _logging(verbose)
    with _exit_code(verbose, announce=True):
        from pipeline import dag, runner

        graph = dag.load(file, overrides, registry())
        result = runner.run(graph, runner.Choice(start, until, frozenset(force), wait_s))
        _print_result(graph, result)


def _print_result(graph: Any, result: Any) -> None:
    if result.up_to_date:
        click.echo(f"{graph.settings.name}: up to date; nothing to do ({len(result.stages)} stages).")
        return
    click.echo(f"{'stage':<14}{'state':<9}{'seconds':>9}{'peak GiB':>10}")
    for stage in result.stages:
        peak = f"{stage.peak_bytes / 2**30:.2f}" if stage.peak_bytes else ""
        click.echo(f"{stage.instance:<14}{stage.state:<9}{stage.seconds:>9.1f}{peak:>10}")
    from pipeline import highlights

    for line in highlights.lines(graph):
        click.echo(line)
    click.echo(f"total {result.seconds:.1f} s, peak memory {result.peak_bytes / 2**30:.2f} GiB (summed PSS of all processes)")


@commands.command("plan")
@file_argument
@click.argument("rest", nargs=-1, metavar="[STAGE] [a.b=c]...")
@click.option("--capacity", is_flag=True, help="Say what training would need on the machines named: memory by ZeRO stage, time, storage.")
@click.option("--nodes", default=1, show_default=True, type=click.IntRange(1), help="Machines (with --capacity).")
@click.option("--gpus", default=8, show_default=True, type=click.IntRange(0), help="GPUs of each; 0: its cores.")
@click.option("--gpu", default="h100", show_default=True, help="Their kind.")
@click.option("--mfu", type=click.FloatRange(0, 1, min_open=True), help="Share of their peak that training reaches.  [default: 0.35]")
@click.option("--text-gb", default=0.0, type=click.FloatRange(0), help="Size of the corpus, UTF-8, for storage.")
@json_option
@verbose_option
def plan_command(
    file: Path, rest: tuple[str, ...], capacity: bool, nodes: int, gpus: int, gpu: str, mfu: float | None, text_gb: float, as_json: bool, verbose: bool
) -> None:  # fmt: skip
    """Say what a run would do and why, or what its training needs; nothing is created."""
    _logging(verbose)
    stage = rest[0] if rest and "=" not in rest[0] else None
    overrides = rest[1:] if stage else rest
    with _exit_code(verbose, announce=False):
        from pipeline import dag

        graph = dag.load(file, overrides, registry())
        if capacity:
            from pipeline.capacity import MFU, Machines

            machines = Machines(nodes, gpus, gpu, MFU if mfu is None else mfu, round(text_gb * 1e9))
            for line in dag.capacity(graph, stage, machines):
                click.echo(line)
            return
        planned = dag.plan(graph)
        if stage is not None:
            graph.instance(stage)
            planned = [p for p in planned if p.instance.name == stage]
        if as_json:
            rows = [
                {
                    "stage": p.instance.name,
                    "state": p.state,
                    "reasons": list(p.reasons),
                    "settings": p.instance.config.model_dump(mode="json"),
                }
                for p in planned
            ]
            click.echo(json.dumps(rows, indent=1, ensure_ascii=False))
            return
        words = {"done": "up to date", "run": "will run", "maybe": "may run"}
        for item in planned:
            click.echo(f"{item.instance.name:<14}{words[item.state]:<12}{'; '.join(item.reasons)}")
        if stage is not None:
            click.echo("settings:")
            for name, info in type(planned[0].instance.config).model_fields.items():
                value = json.dumps(getattr(planned[0].instance.config, name), default=_plain, ensure_ascii=False)
                click.echo(f"  {name}: {value}" + (f"   # {info.description}" if info.description else ""))
        todo = sum(p.state != "done" for p in planned)
        click.echo(f"{todo} of {len(planned)} stages to run." if todo else "Nothing to do.")


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else dict(value)


@commands.command("status")
@file_argument
@overrides_argument
@click.option("--verify", is_flag=True, help="Hash every file again.")
@json_option
@verbose_option
def status_command(file: Path, overrides: tuple[str, ...], verify: bool, as_json: bool, verbose: bool) -> None:
    """Show the last completed run of each stage: state, artifact, digest, seconds."""
    _logging(verbose)
    with _exit_code(verbose, announce=False):
        from pipeline import condition, dag

        graph = dag.load(file, overrides, registry())
        rows = condition.status(graph, verify=verify)
        if as_json:
            click.echo(json.dumps(rows, indent=1))
        else:
            for row in rows["stages"]:
                click.echo(
                    f"{row['stage']:<14}{row['state']:<12}{row['seconds'] or 0:>9.1f} s  {(row['digest'] or '')[:12]:<14}{row['path'] or ''}"
                )
                if row["state"] not in ("done", "never run"):
                    click.echo(f"{'':<14}{'; '.join(row['reasons'])}")
            if rows["holder"]:
                click.echo(f"running now: {rows['holder']}")
        if verify and rows["damaged"]:
            from pipeline.errors import IntegrityError

            forgotten = condition.forget_damaged(graph, rows["damaged"])
            names = f"{', '.join(rows['damaged'][:5])}{' …' if len(rows['damaged']) > 5 else ''}"
            raise IntegrityError(
                f"{len(rows['damaged'])} file(s) damaged: {names}. The next run makes them again ({', '.join(forgotten)})."
            )


@commands.command("show")
@file_argument
@click.argument("stage")
@click.argument("rest", nargs=-1, metavar="[PART] [a.b=c]...")
@click.option("--lang", help="Only this language.")
@click.option("--rows", default=5, show_default=True, help="How many rows.")
@verbose_option
def show_command(file: Path, stage: str, rest: tuple[str, ...], lang: str | None, rows: int, verbose: bool) -> None:
    """Look inside what STAGE made: rows of a shard, a packed row as text, pieces of the vocabulary, a card."""
    _logging(verbose)
    part = next((item for item in rest if "=" not in item), None)
    overrides = [item for item in rest if "=" in item]
    with _exit_code(verbose, announce=False):
        from pipeline import dag, inspection

        graph = dag.load(file, overrides, registry())
        for line in inspection.show(graph, stage, part, lang, rows):
            click.echo(line)


@commands.command("doctor")
@click.argument("file", type=click.Path(path_type=Path), required=False)
@overrides_argument
@json_option
@verbose_option
def doctor_command(file: Path | None, overrides: tuple[str, ...], as_json: bool, verbose: bool) -> None:
    """Check this machine: versions, cores, bf16, disk, memory, Ray ports and auth, MLflow, GPU; say what is missing."""
    _logging(verbose)
    with _exit_code(verbose, announce=False):
        from pipeline import dag, doctor

        graph = dag.load(file, overrides, registry()) if file is not None else None
        findings = doctor.examine(graph)
        if as_json:
            click.echo(json.dumps([vars(finding) for finding in findings], indent=1))
        else:
            for finding in findings:
                click.echo(f"{finding.mark:<5}{finding.subject:<22}{finding.text}")
        if any(finding.mark == "FAIL" for finding in findings):
            from pipeline.errors import PreflightError

            failed = [f"{finding.subject}: {finding.text}" for finding in findings if finding.mark == "FAIL"]
            raise PreflightError("; ".join(failed))


@commands.command("retrain")
@file_argument
@overrides_argument
@click.option("--cron", "cron", is_flag=True, help="Print a crontab line that does this through `ray job submit`.")
@click.option("--wait", "wait_s", type=float, default=0.0, metavar="SECONDS", help="Wait for another run of this pipeline to end.")
@verbose_option
def retrain_command(file: Path, overrides: tuple[str, ...], cron: bool, wait_s: float, verbose: bool) -> None:
    """Run if a source changed, compare with the champion on the frozen held-out text, promote only what is better (else exit 7)."""
    _logging(verbose)
    if cron:
        with _exit_code(verbose, announce=False):
            from pipeline import dag, retraining

            graph = dag.load(file, overrides, registry())
            click.echo(retraining.cron_line(graph, overrides))
        return
    with _exit_code(verbose, announce=True):
        from pipeline import dag, retraining

        graph = dag.load(file, overrides, registry())
        for line in retraining.retrain(graph, wait_s=wait_s):
            click.echo(line)


@commands.command("submit")
@file_argument
@overrides_argument
@click.option("--address", required=True, help="Address of the cluster's job server, as http://head:8265.")
@verbose_option
def submit_command(file: Path, overrides: tuple[str, ...], address: str, verbose: bool) -> None:
    """Run FILE as a job of a Ray cluster, follow its log, and exit with the run's own code."""
    _logging(verbose)
    with _exit_code(verbose, announce=False):
        from pipeline import job

        if not file.exists():
            raise ConfigError(f"{file}: no such file.")
        code = job.submit(address, file, overrides, click.echo)
    if code != EXIT_OK:
        raise SystemExit(code)


@commands.command("gc")
@file_argument
@overrides_argument
@click.option("--delete", is_flag=True, help="Delete; without it, only say what would go.")
@json_option
@verbose_option
def gc_command(file: Path, overrides: tuple[str, ...], delete: bool, as_json: bool, verbose: bool) -> None:
    """Remove what no pipeline's last run in this storage refers to: old artifacts, units, checkpoints, temporary files."""
    _logging(verbose)
    with _exit_code(verbose, announce=False):
        from pipeline import collection, dag

        graph = dag.load(file, overrides, registry())
        result = collection.collect(graph.storage, delete=delete)
        if as_json:
            click.echo(json.dumps({"paths": result.paths, "bytes": result.bytes, "deleted": delete}, indent=1))
        else:
            for path in result.paths:
                click.echo(path)
            click.echo(
                f"{len(result.paths)} files, {result.bytes / 2**20:.1f} MiB {'deleted' if delete else 'would go; give --delete to delete them'}."
            )
