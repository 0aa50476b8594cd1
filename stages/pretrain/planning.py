"""What a run of pretrain needs on given machines, in lines; nothing heavy is imported."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.capacity import Job, Machines, Memory, rank_memory
from pipeline.config import resolve_path
from pipeline.devices import DEVICES, GIB
from pipeline.errors import ConfigError
from pipeline.gang_sizes import default_micro_batch
from pipeline.model.flops import training_flops
from pipeline.model.sizes import ARCHITECTURES, ModelSize, named_size
from pipeline.sources import list_sources, open_source
from pipeline.storage import without_userinfo
from stages.pretrain import Config
from stages.pretrain.models import check_start
from stages.pretrain.parts import parts_of

if TYPE_CHECKING:
    from pipeline.dag import Graph

STORED = {"ingest": 1.05, "clean": 1.1, "dedup": 0.1, "vocabulary": 1.6, "pack": 0.02}
"""Bytes that a stage stores for one of text, measured on 0.9 GB of news in 109 languages; those of vocabulary are word counts, which fall behind larger corpora."""
TEXT_A_TOKEN = 4.0
"""Bytes of text that one token of a vocabulary of 64,000 stands for, over many scripts."""
_NAMES = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size")
LEFT_OVER = 0.92
"""Share of a GPU's memory that is planned with: the rest goes to the context, the libraries and fragments."""


def lines(graph: Graph, name: str, machines: Machines) -> Iterator[str]:
    """Parameters, memory of a rank at each ZeRO stage, time, storage.

    Raises:
        ConfigError: the GPU is not known, or the ranks do not divide the global batch.
    """
    config = graph.instance(name).config
    assert isinstance(config, Config)
    if machines.gpus and machines.gpu not in DEVICES:
        raise ConfigError(f"--gpu {machines.gpu!r} is not known; known: {', '.join(DEVICES)}")
    if config.global_batch % machines.ranks:
        near = [n for n in range(1, config.global_batch + 1) if config.global_batch % n == 0]
        fitting = max(n for n in near if n <= machines.ranks)
        raise ConfigError(
            f"{machines.ranks} ranks do not divide pretrain.global_batch {config.global_batch}; the next fewer that do are {fitting}"
        )
    vocabulary, length = _of(graph, name, "vocabulary", "size"), _of(graph, name, "packing", "length")
    size, architecture = named_size(config.model), str(config.architecture)
    if config.start is not None:
        size, architecture = _started(config.start.path, graph.base_of(("stages", name, "start", "path")))
    jobs = [_job(config, machines, size, architecture, vocabulary, length, zero) for zero in range(4)]
    job = jobs[config.zero]
    called = config.model if config.start is None else without_userinfo(config.start.path)
    kind = "" if architecture == "xlm-r" else f" as {architecture}"
    yield f"{name}: {called}{kind}, {job.parameters:,} parameters ({vocabulary:,} ids, rows of {length:,} tokens)"
    place = f"{machines.nodes} × {machines.gpus} {machines.gpu}" if machines.gpus else f"{machines.nodes} node(s), CPU"
    yield f"on {place}: {machines.ranks} ranks, micro-batch {job.micro_batch}, {job.accumulation} of them a step, {job.precision}, dropout {config.dropout:g}"
    yield from _memory(jobs, config, machines)
    yield from _time(config, machines, job)
    yield from _storage(config, job, machines)


def _of(graph: Graph, name: str, slot: str, setting: str) -> int:
    """A setting of the stage that gives a slot."""
    source = next(edge.instance for edge in graph.instance(name).edges if edge.slot == slot)
    return int(getattr(graph.instance(source).config, setting))


def _started(path: str, base: Path) -> tuple[ModelSize, str]:
    """The shape of a model that exists, from its `config.json`, without its weights.

    Raises:
        MissingSourceError: it cannot be read.
        ConfigError: its architecture cannot be trained.
    """
    found = list_sources(resolve_path(f"{path.rstrip('/')}/config.json", base), {})
    check_start([source.name.rpartition("/")[2] for source in found], without_userinfo(path), weights=False)
    with open_source(found[0].url) as stream:
        plain = json.load(stream)
    architecture = {"xlm-roberta": "xlm-r"}.get(plain.get("model_type"), plain.get("model_type"))
    if architecture not in ARCHITECTURES:
        raise ConfigError(f"pretrain.start: a model of type {architecture!r} cannot be trained; known: {', '.join(ARCHITECTURES)}")
    names = ("n_layers", "emb_dim", "n_heads", "") if architecture == "xlm" else _NAMES
    layers, hidden, heads, inner = (int(plain.get(name, 0)) for name in names)
    return ModelSize(
        layers, hidden, heads, inner or 4 * hidden, int(plain["max_position_embeddings"]), int(plain["vocab_size"])
    ), architecture


def _job(config: Config, machines: Machines, size: ModelSize, architecture: str, vocabulary: int, length: int, zero: int) -> Job:
    micro = config.micro_batch or default_micro_batch(config.global_batch, machines.ranks)
    share = config.global_batch // machines.ranks
    on_cpu = machines.gpus == 0
    precision = (
        ("fp32" if on_cpu or "bf16" not in DEVICES[machines.gpu].peak else "bf16") if config.precision == "auto" else config.precision
    )
    predicted = max(_predicted(part.objectives, max(part.mask_rate), length) for part in parts_of(config))
    return Job(
        size, vocabulary, length, micro, -(-share // micro), machines.ranks, zero, precision, config.dropout, predicted,
        offload=config.offload and zero > 0, recompute=config.activation_checkpointing, architecture=architecture, optimizer=config.optimizer,
        on_cpu=on_cpu,
    )  # fmt: skip


def _predicted(objectives: Any, rate: float, length: int) -> int:
    return length - 1 if "clm" in objectives else round(rate * (length - 2))


def _memory(jobs: list[Job], config: Config, machines: Machines) -> Iterator[str]:
    yield "memory of a rank, GiB:"
    yield f"  {'zero':<6}{'weights':>10}{'gradients':>11}{'optimizer':>11}{'activations':>13}{'logits':>9}{'joining':>9}{'peak':>9}"
    room = DEVICES[machines.gpu].memory_bytes * LEFT_OVER if machines.gpus else 0
    for job in jobs:
        found = rank_memory(job)
        fits = "" if not room else ("  fits" if found.peak <= room else "  does not fit")
        chosen = " *" if job.zero == config.zero else ""
        yield f"  {f'{job.zero}{chosen}':<6}{_row(found)}{fits}"
    if room:
        fitting = [job.zero for job in jobs if rank_memory(job).peak <= room]
        text = f"smallest stage that fits: {fitting[0]}" if fitting else "none fits: take a smaller micro_batch, more nodes or offload"
        yield f"  * zero: {config.zero} in the file. A {machines.gpu} has {DEVICES[machines.gpu].memory_bytes / GIB:.0f} GiB; {text}"


def _row(found: Memory) -> str:
    columns = (
        (found.weights, 10), (found.gradients, 11), (found.optimizer, 11), (found.activations, 13), (found.logits, 9), (found.communication, 9), (found.peak, 9),
    )  # fmt: skip
    return "".join(f"{value / GIB:>{width}.2f}" for value, width in columns)


def _time(config: Config, machines: Machines, job: Job) -> Iterator[str]:
    rows = config.global_batch
    flops = training_flops(
        job.size, job.vocab_size, tokens=rows * job.length, squares=rows * job.length**2, predicted=rows * job.predicted, architecture=job.architecture
    )  # fmt: skip
    yield f"a step: {rows:,} rows, {rows * job.length:,} tokens, {flops / 1e12:,.1f} TFLOP; {config.steps:,} steps: {config.steps * rows * job.length / 1e9:,.1f} billion tokens"
    if not machines.gpus:
        yield "time: on a CPU it is measured, not tabulated; the records of a run have `mfu` and `tokens_per_second`"
        return
    peak = DEVICES[machines.gpu].peak.get(job.precision, 0.0)
    if not peak:
        known = ", ".join(sorted(DEVICES[machines.gpu].peak))
        raise ConfigError(f"pretrain.precision: a {machines.gpu} does not compute in {job.precision}; it has {known}: name one, or auto")
    rate = machines.ranks * peak * machines.mfu
    seconds = flops / rate
    yield (
        f"time at {machines.mfu:.0%} of {peak / 1e12:,.0f} TFLOP/s each: {rows * job.length / seconds:,.0f} tokens/s, {seconds:.2f} s a step, "
        f"{seconds * config.steps / 86400:,.1f} days (a run's records have the share that it reached, `mfu`: give it as --mfu)"
    )


def _storage(config: Config, job: Job, machines: Machines) -> Iterator[str]:
    checkpoint = 12 * job.parameters - (4 * job.hidden_matrices if job.optimizer == "muon" else 0)
    kept = config.keep + config.keep_best + (config.steps // config.keep_every if config.keep_every else 0) + 1
    yield f"storage: a checkpoint {checkpoint / GIB:,.1f} GiB, {kept} at a time {checkpoint * kept / GIB:,.1f} GiB; exported model {4 * job.parameters / GIB:,.1f} GiB"
    if not machines.text_bytes:
        yield "storage of the data stages: give the size of the corpus with --text-gb"
        return
    width = 2 if job.vocab_size <= 1 << 16 else 4
    tokens = machines.text_bytes / TEXT_A_TOKEN
    stored = {name: machines.text_bytes * share for name, share in STORED.items()} | {"encode": tokens * width}
    yield (
        f"storage of {machines.text_bytes / GIB:,.1f} GiB of text, about {tokens / 1e9:,.2f} billion tokens: "
        + ", ".join(f"{name} {stored[name] / GIB:,.1f}" for name in ("ingest", "clean", "dedup", "vocabulary", "encode", "pack"))
        + f" GiB; {sum(stored.values()) / GIB:,.1f} GiB in all"
    )
