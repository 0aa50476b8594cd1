"""The work of pretrain: the driver's side (start, restart, publish) and the rank's side (read, train, evaluate, save)."""

from __future__ import annotations

import json
import logging
import math
import platform
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from pipeline import fetching
from pipeline.artifacts.vocabulary import MODEL_FILE, ROWS_FILE
from pipeline.curve import Curve
from pipeline.errors import ConfigError
from pipeline.gang_sizes import default_micro_batch
from pipeline.jobs import INDEX, checkpoints, rewinds, run_gang
from pipeline.retention import Retention, retain
from pipeline.skips import Rewinding, Skips
from pipeline.stage import Context, Input, Output, Summary
from pipeline.storage import Published, Storage, canonical
from pipeline.training.objectives import ON_PAIRS
from stages.pretrain import Config
from stages.pretrain.parts import names_of

log = logging.getLogger(__name__)


def run(config: Config, inputs: Mapping[str, Input], output: Output, context: Context) -> Summary:
    """Train to the end; see the package."""
    model = inputs["vocabulary"].content.files[MODEL_FILE]
    storage, folder = context.storage, f"{context.work}/checkpoints"
    argument = {
        "root": storage.root,
        "attempt": storage.attempt,
        "config": config.model_dump(mode="json"),
        "seed": context.seed,
        "packing": inputs["packing"].reference(),
        "tokens": inputs["tokens"].reference(),
        "pair_packing": inputs["pair_packing"].reference() if "pair_packing" in inputs else [],
        "pair_tokens": inputs["pair_tokens"].reference() if "pair_tokens" in inputs else [],
        "vocabulary_size": _vocabulary_size(inputs["vocabulary"]),
        "vocabulary": {"path": model.path, "sha256": model.sha256},
        "rows": _rows(inputs["vocabulary"]),
        "start": {}
        if config.start is None
        else {name: shard.plain() for name, shard in fetching.fetched(("start", "path"), context).items()},
        "checkpoints": folder,
        "spool": context.spool,
        "baselines": f"{context.work}/baselines.json",
        "frequencies": f"{context.work}/frequencies.json",
    }
    given = context.settings.cluster
    values = run_gang(
        context.cluster(), storage, folder, "stages.pretrain.work:train_rank", argument, global_batch=config.global_batch, workers=given.workers,
        name=f"{context.instance}-{context.key[:8]}", max_restarts=config.max_restarts, deadline_s=given.deadline_s, on_poll=context.on_poll,
        fence=context.fence, curve=Curve(storage, context.spool), steps=config.steps,
        rewinding=Rewinding(config.spike.rewind, config.spike.most),
    )  # fmt: skip
    return _publish(config, values[0], output, context, folder)


def _vocabulary_size(vocabulary: Input) -> int:
    return int(json.loads(vocabulary.path("card.json").read_text())["size"])


def _rows(vocabulary: Input) -> dict[str, str] | None:
    """Where the rows of the embedding come from, if the vocabulary was another one before."""
    published = vocabulary.content.files.get(ROWS_FILE)
    return None if published is None else {"path": published.path, "sha256": published.sha256}


def _publish(config: Config, outcome: dict[str, Any], output: Output, context: Context, folder: str) -> Summary:
    last = checkpoints(context.storage, folder)[-1]
    index = context.storage.read_json(f"{last}/{INDEX}")
    for file in index["files"]:
        output.refer("checkpoint", f"final/{file['name']}", Published(f"{last}/{file['name']}", file["sha256"], file["bytes"]))
    with output.file("checkpoint", f"final/{INDEX}") as path:
        path.write_bytes(context.storage.read(f"{last}/{INDEX}"))
    with output.file("checkpoint", "training.json") as path:
        path.write_bytes(canonical(outcome["training"]))
    records = Curve(context.storage, context.spool).merged()
    held = outcome["training"]["heldout"]
    _plots(records, held, output)
    # What the settings ask for beside the last stays with the work of this run, not in its artifact.
    retain(context.storage, folder, Retention(1, config.keep_best, config.keep_every))
    summary = held["summary"]
    warnings = [
        f"a spike at step {each['spike']} ({each['reason']}): trained again from step {each['to']} without the data up to there"
        for each in rewinds(context.storage, folder)
    ]
    if "mlm" in names_of(config) and "loss" in summary and summary["loss"] > summary["corpus_unigram"]:
        warnings.append(
            f"held-out loss {summary['loss']:.3f} is above the corpus-wide unigram baseline {summary['corpus_unigram']:.3f}: train longer"
        )
    for name in sorted({name.split("/")[0] for name in summary if "/" in name}):
        if summary[f"{name}/loss"] > summary[f"{name}/baseline"]:
            loss, baseline = summary[f"{name}/loss"], summary[f"{name}/baseline"]
            warnings.append(
                f"held-out loss of {name} {loss:.3f} is above its baseline {baseline:.3f}: train longer, or give it more weight"
            )
    return Summary(
        counts={"heldout": held, "training": outcome["about"], "tokens": outcome["training"]["tokens"]},
        metrics={f"heldout/{name}": value for name, value in summary.items()},
        warnings=warnings,
    )


def _plots(records: list[dict[str, Any]], held: dict[str, Any], output: Output) -> None:
    from pipeline.plots import bars, curves

    steps = [r["step"] for r in records]
    series = {"training loss": (steps, [r["loss"] for r in records])}
    mixed = sorted({key for r in records for key in r if key.startswith("loss/")})
    if mixed:  # a step is of one objective, so the loss of all would jump
        series = {
            f"training loss, {key.removeprefix('loss/')}": ([r["step"] for r in records if key in r], [r[key] for r in records if key in r])
            for key in mixed
        }
    measured = [(r["step"], r["heldout/loss"]) for r in records if "heldout/loss" in r]
    if measured:
        series["held-out loss"] = ([s for s, _ in measured], [v for _, v in measured])
    lines = {name.replace("_", " "): held["summary"][name] for name in ("corpus_unigram", "language_unigram")}
    with output.evidence("loss.svg") as path:
        curves(series, path, title="Masked language model", xlabel="step", ylabel="nats per masked token", lines=lines)
    with output.evidence("throughput.svg") as path:
        rate = {"tokens per second": (steps, [r["tokens_per_second"] for r in records])}
        curves(rate, path, title="Throughput", xlabel="step", ylabel="tokens/s, padding not counted")
    with output.evidence("heldout.svg") as path:
        bars(held["loss"], path, title="Held-out loss by language", ylabel="nats per masked token")
    with output.evidence("curve.json") as path:
        path.write_bytes(canonical(records))


# ---------------------------------------------------------------- on a rank


def train_rank(gang: Any, argument: dict[str, Any]) -> dict[str, Any]:
    """One rank of the gang; returns (on every rank alike) what was trained and measured."""
    from pipeline.launches import Launch
    from pipeline.model.architectures import architecture_of, size_of
    from pipeline.model.build import plain_configuration, training_module
    from pipeline.model.language_embeddings import ids_of, sides_by_name
    from pipeline.saving import save_checkpoint, start_folder
    from pipeline.training.contract import TrainSettings
    from pipeline.training.counter import derive
    from pipeline.training.loop import train
    from pipeline.training.objectives.next_sentence import WithNextSentence
    from pipeline.training.objectives.summed import pretraining_loss
    from pipeline.training.spikes import SpikeRule
    from stages.pretrain import measures
    from stages.pretrain.effort import meter_of
    from stages.pretrain.feeds import feed_of, planned_tokens
    from stages.pretrain.frequencies import begin_with, log_frequencies
    from stages.pretrain.heldout import (
        bits_per_byte,
        by_byte,
        bytes_of_pieces,
        held_out_loss,
        masked_bytes,
        mean_over_languages,
        unigram_baselines,
    )
    from stages.pretrain.hidden import choice_of, frequencies
    from stages.pretrain.models import model_of
    from stages.pretrain.rows import packed_rows

    storage = Storage.at(argument["root"], argument["attempt"])
    launch = Launch.of(storage, argument["launch"])
    launch.meet(platform.node())
    config = Config.model_validate_json(json.dumps(argument["config"]))
    rows = packed_rows(storage, argument["packing"], argument["tokens"])
    on_pairs = ON_PAIRS.intersection(names_of(config))
    paired = packed_rows(storage, argument["pair_packing"], argument["pair_tokens"]) if on_pairs else {}
    pairs, held_pairs = paired.get("train", {}), paired.get("heldout", {})
    held, seed, vocab_size = rows.get("heldout", {}), argument["seed"], argument["vocabulary_size"]
    length = next(iter(rows["train"].values())).length
    longer = {lang: packed.length for lang, packed in (pairs | held_pairs).items() if packed.length > length}
    if longer:
        lang, found = next(iter(sorted(longer.items())))
        raise ConfigError(
            f"pretrain.inputs: pairs of {lang} are packed to {found} tokens a row and text to {length}; take pair_packing and packing from one pack"
        )
    vocabulary = storage.local(argument["vocabulary"]["path"], argument["vocabulary"]["sha256"]).read_bytes()
    choice = choice_of(
        config, vocabulary, vocab_size, lambda: frequencies(storage, argument["frequencies"], rows["train"], vocab_size, gang)
    )
    model = model_of(config, argument, storage, vocab_size=vocab_size, length=length, languages=sorted(rows["train"].keys() | held.keys()))
    langs = None
    if config.language_embeddings:
        langs = sides_by_name(ids_of(model.config) or {}, rows["train"].keys() | held.keys(), pairs.keys() | held_pairs.keys())
    feed = feed_of(config, rows["train"], vocab_size, seed, pairs, choice, langs)
    micro = config.micro_batch or default_micro_batch(config.global_batch, gang.world_size)
    settings = TrainSettings(
        steps=config.steps, micro_batch=micro, learning_rate=config.learning_rate, warmup_steps=round(config.warmup * config.steps),
        schedule=config.schedule, optimizer=config.optimizer, momentum=config.momentum, weight_decay=config.weight_decay, betas=config.betas, eps=config.eps, clip=config.clip, zero=config.zero,
        offload=config.offload, precision=config.precision, seed=derive(seed, "dropout") >> 1, log_every=config.log_every,
        checkpoint_every=config.checkpoint_every, evaluate_every=config.evaluate_every, deepspeed=dict(config.deepspeed),
    )  # fmt: skip
    if config.output_bias == "unigram" and config.start is None:
        begin_with(model, log_frequencies(rows["train"], planned_tokens(feed, config.steps), vocab_size))
    size, architecture, about_model = size_of(model.config), architecture_of(model), plain_configuration(model.config)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    module: Any = training_module(model, recompute=config.activation_checkpointing, compiled=config.compile)
    if "nsp" in names_of(config):
        module = WithNextSentence(module, size.hidden, derive(seed, "next head") >> 1)
    curve, languages = Curve(storage, argument["spool"]), (*sorted(rows["train"]), *sorted(pairs))
    final: dict[str, tuple[float, int]] = {}
    others: dict[str, measures.Sums] = {}
    measured_at = -1
    held_out: float | None = None
    """What the best checkpoints are chosen by."""
    is_masked = "mlm" in names_of(config)

    @cache
    def covered() -> dict[str, int]:
        return masked_bytes(held, bytes_of_pieces(vocabulary), vocab_size) if held else {}

    def evaluate(trained: Any, step: int) -> dict[str, float]:
        nonlocal final, others, measured_at, held_out
        measured_at = step
        others = measures.measure(trained, config, held, held_pairs, vocab_size, gang.rank, gang.world_size, langs)
        of_each = [(name, mean_over_languages(by_lang)) for name, by_lang in measures.means(others).items() if by_lang]
        extra = {f"heldout/{name}/loss": loss for name, loss in of_each}
        if not is_masked and of_each:
            held_out = math.fsum(loss for _, loss in of_each) / len(of_each)
        if not held:
            return extra
        within = config.attention == "documents"
        final = held_out_loss(trained, held, vocab_size, gang.rank, gang.world_size, within_documents=within, langs=langs)
        by_lang = {lang: nats / count for lang, (nats, count) in final.items() if count}
        masked = mean_over_languages(by_lang)
        held_out = masked if is_masked else held_out
        return {
            "heldout/loss": masked,
            **{f"heldout/{lang}": value for lang, value in by_lang.items()},
            **by_byte(final, covered()),
            **extra,
        }

    def watch(records: list[dict[str, float]]) -> None:
        launch.require()
        curve.append(records)

    def save(step: int, engine: Any, meta: Any) -> None:
        # Before the checkpoint is whole, so that a run killed behind the last one finds what was measured there.
        if gang.rank == 0 and measured_at == step:
            storage.write_json(f"{argument['checkpoints']}/heldout-{step}.json", {lang: list(pair) for lang, pair in final.items()})
            if others:
                storage.write_json(f"{argument['checkpoints']}/objectives-{step}.json", others)
        if measured_at == step and held_out is not None:
            meta = replace(meta, heldout_loss=held_out)
        keep = Retention(config.keep, config.keep_best, config.keep_every)
        save_checkpoint(storage, argument["checkpoints"], step, engine, meta, gang, keep=keep, launch=launch)

    skips = Skips.of(argument["skips"])
    resume = None if argument["resume"] is None else start_folder(storage, argument["resume"])
    outcome = train(
        settings, module, feed, pretraining_loss, gang, resume_from=resume, save=save, watch=watch, evaluate=evaluate,
        meter=meter_of(config, size, architecture, vocab_size, gang), skips=skips, languages=languages,
        spikes=SpikeRule(config.spike.loss, config.spike.gradient, config.spike.window),
    )  # fmt: skip
    if outcome.spiked is not None:
        return {"about": {"interrupted": False, "spiked": {"step": outcome.steps, "reason": outcome.spiked}}}
    if gang.rank != 0 or outcome.interrupted:
        return {"about": {"interrupted": outcome.interrupted}}
    if held and not final:
        plain = storage.read_json(f"{argument['checkpoints']}/heldout-{outcome.steps}.json") or {}
        final = {lang: (nats, count) for lang, (nats, count) in plain.items()}
    if measured_at < 0:
        plain = storage.read_json(f"{argument['checkpoints']}/objectives-{outcome.steps}.json") or {}
        others = {name: {lang: (nats, count) for lang, (nats, count) in own.items()} for name, own in plain.items()}
    baselines = storage.read_json(argument["baselines"])
    if baselines is None:
        baselines = unigram_baselines(rows["train"], held, vocab_size) if held else {"corpus_unigram": {}, "language_unigram": {}}
        storage.write_json(argument["baselines"], baselines)
    bits = bits_per_byte(final, covered())
    loss = {lang: nats / count for lang, (nats, count) in sorted(final.items()) if count}
    measured = {"loss": loss, "bits_per_byte": bits, **baselines}
    summary = {name: mean_over_languages(values) for name, values in sorted(measured.items()) if values}
    losses = measures.means(others)
    against = measures.baselines(config, rows["train"], held, pairs, held_pairs, vocab_size) if others else {}
    summary |= measures.summary(losses, against)
    training = {
        "model": config.model if config.start is None else "start",
        "architecture": architecture,
        "config": about_model,
        "parameters": parameters,
        "vocabulary_size": vocab_size,
        "length": length,
        "seed": seed,
        "dropout": config.dropout,
        "objectives": list(names_of(config)),
        "steps": outcome.steps,
        "tokens": {languages[number]: count for number, count in outcome.tokens_by_language.items()},
        "planned_tokens": planned_tokens(feed, config.steps),
        "skips": [list(each) for each in skips.ranges],
        "final_loss": None if outcome.final_loss != outcome.final_loss else outcome.final_loss,
        "heldout": {
            "loss": loss,
            "bits_per_byte": bits,
            "masked_tokens": {lang: count for lang, (_, count) in sorted(final.items())},
            **baselines,
            **({"objectives": {name: {"loss": losses[name], "baseline": against[name]} for name in losses}} if losses else {}),
            "summary": summary,
        },
    }
    about = {"world_size": outcome.world_size, "micro_batch": micro, "accumulation": outcome.accumulation, "precision": outcome.precision,
             "zero": config.zero, "seconds": round(outcome.seconds, 3), "interrupted": outcome.interrupted}  # fmt: skip
    return {"training": training, "about": about}
