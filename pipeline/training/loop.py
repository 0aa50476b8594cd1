"""The step loop: batches in, updates made, records out; no word of Ray, MLflow or storage between batch and step.

    feed.micro_batches(step, rank, world_size, micro_batch) -> numpy -> tensors -> loss_fn -> Σ nll of this rank
    -> / feed.weight(step), the weight of the whole global batch -> backward … backward -> step(rate of this step)
    -> a record -> every `log_every` steps the records so far -> watch

What a step does is a function of (settings, seed, step) and of the weights and moments before it. Data and masks
come from the feed by step; dropout from (seed, sample index) where batches name their samples (`samples_B`), else, in heads of the library,
it is seeded from (seed, step, rank, micro-batch) just before each forward pass. So a run resumed from a checkpoint at the same world size makes bit for bit
the steps it would have made. At another world size the batches, the rate and the former dropout are the same and only the order of additions differs.

Each step sums [loss, tokens] over ranks in float64, so every rank knows when the loss stops being a number, and
all stop together, before the update is made. With a rule for spikes (`spikes`) all end together at one, saving nothing: the outcome says why.

Shapes: B rows, T tokens a row, M masked positions.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline.errors import ConfigError, StageError
from pipeline.model.documents import runs
from pipeline.skips import Skips
from pipeline.training import checkpoint
from pipeline.training.checkpoint import CheckpointMeta
from pipeline.training.contract import LossFn, Meter, Record, TrainOutcome, TrainSettings
from pipeline.training.counter import bits, derive
from pipeline.training.deepspeed_config import EngineSettings
from pipeline.training.engine import Engine, Gang, training_device
from pipeline.training.loss_scale import LossScale
from pipeline.training.mixing import StepFeed
from pipeline.training.objectives.contrast import contrasted
from pipeline.training.precision import PRECISIONS, resolve_precision
from pipeline.training.schedule import multiplier
from pipeline.training.spikes import Skipping, SpikeRule, Watch
from pipeline.training.watching import Busy, Machine, peak_memory, system_metrics

log = logging.getLogger(__name__)


def micro_batch_count(global_batch: int, world_size: int, micro_batch: int) -> int:
    """Micro-batches per rank and step; the last may be short.

    Raises:
        ConfigError: the world size does not divide the global batch.
    """
    if micro_batch < 1 or global_batch < 1:
        raise ConfigError(f"training: global_batch {global_batch} and micro_batch {micro_batch}; both must be at least 1")
    if global_batch % world_size:
        raise ConfigError(
            f"training: {world_size} ranks do not divide a global batch of {global_batch} sequences; choose a divisor as workers"
        )
    return math.ceil(global_batch // world_size / micro_batch)


def dropout_seed(seed: int, step: int, rank: int, micro: int) -> int:
    """63 bits from a hash of the four numbers, the same on every machine."""
    key = f"dropout {seed} {step} {rank} {micro}".encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") >> 1


def tensors_of(batch: Any, device: torch.device) -> dict[str, torch.Tensor]:
    """The arrays of a batch by field name, as tensors on `device`, dtypes kept; fields that are no arrays are left out."""
    arrays = {item.name: getattr(batch, item.name) for item in dataclasses.fields(batch)}
    return {
        name: torch.from_numpy(np.ascontiguousarray(array)).to(device, non_blocking=True)
        for name, array in arrays.items()
        if isinstance(array, np.ndarray)
    }


def train(
    settings: TrainSettings,
    module: nn.Module,
    feed: StepFeed,
    loss_fn: LossFn,
    gang: Gang,
    *,
    resume_from: Path | None,
    save: Callable[[int, Engine, CheckpointMeta], None],
    watch: Callable[[list[Record]], None],
    evaluate: Callable[[nn.Module, int], Mapping[str, float]] | None,
    meter: Meter | None = None,
    spikes: SpikeRule | None = None,
    skips: Skips | None = None,
    languages: Sequence[str] = (),
) -> TrainOutcome:
    """Train `module` to `settings.steps` updates; called by every rank with the same arguments.

    Args:
        settings: how.
        module: float32 weights, the same on every rank; changed by training.
        feed: the batches.
        loss_fn: gives the summed loss of a micro-batch.
        gang: this rank's place.
        resume_from: a checkpoint directory to go on from.
        save: (step, engine, meta): called on all ranks; calls `checkpoint.save` and publishes. Always at the end.
        watch: given the records since its last call, on rank 0 only.
        evaluate: (module, step) -> figures for the record of that step; called on all ranks, module in eval mode, no gradients.
        meter: puts rates of useful work into the records.
        spikes: what ends the run as a spike; none: nothing does.
        skips: steps of the data that are left out.
        languages: names of the languages' numbers, for the records; none leaves tokens by language out of these.

    Raises:
        ConfigError: settings that do not fit together.
        IntegrityError: the checkpoint is damaged.
        StageError: loss or gradient norm is not finite; no checkpoint of that step is saved.
    """
    accumulation = micro_batch_count(feed.global_batch, gang.world_size, settings.micro_batch)
    if settings.threads and not torch.cuda.is_available():
        torch.set_num_threads(settings.threads)
    recorded = checkpoint.read_meta(resume_from).precision if resume_from is not None else None
    # Only rank 0 measures: machines of one gang may differ, and the format must not.
    precision = recorded or (resolve_precision(settings.precision, training_device(gang)) if gang.rank == 0 else "fp32")
    if recorded is not None and settings.precision not in ("auto", recorded):
        log.warning("precision: %s is asked for and ignored; the checkpoint was trained in %s, which is kept", settings.precision, recorded)
    engine = Engine.start(module, _engine_settings(settings, _of_rank_0(precision, gang), accumulation), gang)
    skipping = Skipping(feed, skips or Skips())
    try:
        return _Run(settings, engine, skipping, loss_fn, gang, save, watch, evaluate, meter, spikes or SpikeRule(), languages).go(
            resume_from
        )
    finally:
        engine.close()


def _of_rank_0(precision: str, gang: Gang) -> str:
    if gang.world_size == 1 or not torch.distributed.is_initialized():
        return precision
    number = torch.tensor([PRECISIONS.index(precision)], device=training_device(gang))
    torch.distributed.broadcast(number, src=0)
    return PRECISIONS[int(number[0])]


def _engine_settings(settings: TrainSettings, precision: str, accumulation: int) -> EngineSettings:
    return EngineSettings(
        zero=settings.zero,
        offload=settings.offload,
        precision=precision,
        micro_batch=settings.micro_batch,
        accumulation=accumulation,
        learning_rate=settings.learning_rate,
        betas=settings.betas,
        eps=settings.eps,
        weight_decay=settings.weight_decay,
        clip=settings.clip,
        extra=settings.deepspeed,
        optimizer=settings.optimizer,
        momentum=settings.momentum,
    )


def _with_last(items: Iterable[Any]) -> Iterator[tuple[Any, bool]]:
    """Each item with whether it is the last, one item held back."""
    iterator = iter(items)
    try:
        current = next(iterator)
    except StopIteration:
        return
    for following in iterator:
        yield current, False
        current = following
    yield current, True


class _SpikedError(Exception):
    """A step is a spike; raised on every rank."""


class _Run:
    """The state of one call of `train`: what has been seen, and the records not yet handed on."""

    def __init__(
        self,
        settings: TrainSettings,
        engine: Engine,
        feed: Skipping,
        loss_fn: LossFn,
        gang: Gang,
        save: Callable[[int, Engine, CheckpointMeta], None],
        watch: Callable[[list[Record]], None],
        evaluate: Callable[[nn.Module, int], Mapping[str, float]] | None,
        meter: Meter | None,
        rule: SpikeRule,
        languages: Sequence[str],
    ) -> None:
        self.settings = settings
        self.meter = meter
        self.engine = engine
        self.feed = feed
        self.loss_fn = loss_fn
        self.gang = gang
        self.save = save
        self.watch = watch
        self.evaluate = evaluate
        self.tokens_before: dict[int, int] = {}  # all ranks, up to the checkpoint resumed from
        self.tokens_here = np.zeros(1, dtype=np.int64)  # this rank, since then, by language id
        self.records: list[Record] = []
        self.dropout_key = derive(settings.seed, "dropout")
        self.spikes = Watch(rule)
        self.languages = languages
        self.busy = Busy(engine.device)
        self.machine = Machine(engine.device)

    def go(self, resume_from: Path | None) -> TrainOutcome:
        settings, started = self.settings, time.perf_counter()
        done = saved = self._resume(resume_from)
        loss, interrupted = float("nan"), False
        while done < settings.steps and not interrupted:
            try:
                record = self._step(done)
                self._judge(done, record)
            except _SpikedError as spike:
                self._hand_on()
                return self._outcome(done, loss, started, spiked=str(spike))
            done += 1
            loss = record["loss"]
            last = done == settings.steps
            if last or _due(done, settings.evaluate_every):
                record.update(self._evaluate(done))
            if last or _due(done, settings.log_every):
                record.update(self._about_ranks())
            self.records.append(record)
            if last or _due(done, settings.log_every):
                # Asked as rarely as is logged, since the answer may need a barrier.
                interrupted = not last and self._preempted()
                self._hand_on()
            if last or interrupted or _due(done, settings.checkpoint_every):
                self._save(done)
                saved = done
        if saved != done:
            self._save(done)
        return self._outcome(done, loss, started, interrupted=interrupted)

    def _outcome(self, done: int, loss: float, started: float, *, interrupted: bool = False, spiked: str | None = None) -> TrainOutcome:
        return TrainOutcome(
            steps=done,
            final_loss=loss,
            tokens_by_language=self._tokens(),
            seconds=time.perf_counter() - started,
            interrupted=interrupted,
            precision=self.engine.settings.precision,
            accumulation=self.engine.settings.accumulation,
            world_size=self.gang.world_size,
            spiked=spiked,
        )

    def _judge(self, step: int, record: Record) -> None:
        """Raise `_SpikedError` where the step is a spike; its record is handed on all the same."""
        if not self.spikes.rule.is_on:
            return
        reason = self.spikes.judge(self.feed.phase(step), self.feed.objective_at(step), record["loss"], record["gradient_norm"])
        # The figures are sums over the ranks; should one rank round otherwise, it must not be left alone.
        if int(self.engine.max_over_ranks(torch.tensor([int(reason is not None)]))[0]):
            self.records.append(record)
            raise _SpikedError(reason or "another rank found it")

    def _resume(self, resume_from: Path | None) -> int:
        if resume_from is None:
            return 0
        meta = checkpoint.load(self.engine, resume_from)
        earlier = Skips.of(meta.skips)
        if not self.feed.skips.agrees(earlier, meta.step):
            raise StageError(
                f"training: the checkpoint of step {meta.step} was trained with the data steps {earlier.ranges} left out, "
                f"this run leaves out {self.feed.skips.ranges}; resume from a checkpoint before the first difference"
            )
        if meta.next_sample != earlier.data_step(meta.step) * self.feed.global_batch:
            raise ConfigError(
                f"training: the checkpoint stands at step {meta.step}, sequence {meta.next_sample}; with a global batch of "
                f"{self.feed.global_batch} that is another place in the data; resume with the global batch it was trained with"
            )
        if meta.step > self.settings.steps:
            raise ConfigError(f"steps: {self.settings.steps}, but the checkpoint stands at step {meta.step}; ask for at least as many")
        if meta.loss_scale is not None:
            self.engine.loss_scale = LossScale(*meta.loss_scale)
        self.tokens_before = dict(meta.tokens_by_language)
        self.spikes = Watch(self.spikes.rule, meta.recent)
        return meta.step

    def _step(self, step: int) -> Record:
        """Update number `step`, from 0; its record counts from 1."""
        settings, engine = self.settings, self.engine
        started = time.perf_counter()
        weight = float(self.feed.weight(step))
        if not weight > 0.0:
            raise StageError(f"training: the global batch of step {step + 1} has weight {weight}; nothing in it is to be predicted")
        rate = settings.learning_rate * multiplier(settings.schedule, step, warmup=settings.warmup_steps, total=settings.steps)
        while True:
            tokens_here = self.tokens_here
            sums = self._passes(step, weight)
            mean_loss = float(sums[0]) / weight
            self._require_finite("loss", mean_loss, step)
            if engine.step(rate):
                break
            self.tokens_here = tokens_here  # a float16 gradient overflowed: the step is made again
        self._require_finite("gradient norm", engine.grad_norm(), step)
        seconds = time.perf_counter() - started
        objective = self.feed.objective_at(step)
        return {
            "step": step + 1,
            "loss": mean_loss,
            **({} if objective is None else {f"loss/{objective}": mean_loss}),
            "gradient_norm": engine.grad_norm(),
            "learning_rate": rate,
            "tokens": float(sums[1]),
            "tokens_per_second": float(sums[1]) / seconds,
            "seconds": seconds,
            "fill": float(sums[1] / sums[3]),
            **({"skipped_steps": float(self.feed.skips.count)} if self.feed.skips.count else {}),
            **({} if engine.loss_scale is None else {"loss_scale": engine.loss_scale.value}),
            **self._rates(step, objective, sums, weight, seconds),
        }

    def _passes(self, step: int, weight: float) -> torch.Tensor:
        """Forward and backward pass of all micro-batches of a step; over all ranks [Σ weighted nll, tokens, Σ length², places], float64."""
        settings, engine, gang = self.settings, self.engine, self.gang
        nn.Module.train(engine.module, True)
        loss_sum = torch.zeros((), dtype=torch.float64, device=engine.device)
        seen, count = np.zeros(3), 0

        def fields(batch: Any, number: int) -> dict[str, torch.Tensor]:
            torch.manual_seed(dropout_seed(settings.seed, step, gang.rank, number))
            return tensors_of(batch, engine.device) | self._about_rows(batch)

        batches = self.feed.micro_batches(step, gang.rank, gang.world_size, settings.micro_batch)
        self.busy.start()
        for batch, last in _with_last(contrasted(batches, engine, fields)):
            seen += self._count_tokens(batch)
            loss = self.loss_fn(engine.module, fields(batch, count))
            if last:
                self.busy.stop()
            loss_sum += loss.detach().double()
            engine.backward(loss / weight, last=last)
            count += 1
        if count != engine.settings.accumulation:
            raise StageError(
                f"training: step {step + 1} came in {count} micro-batches, {engine.settings.accumulation} were expected: "
                "a fault of the feed"
            )
        return engine.sum_over_ranks(torch.cat([loss_sum.view(1), torch.from_numpy(seen).to(engine.device)]))

    def _rates(self, step: int, objective: str | None, sums: torch.Tensor, weight: float, seconds: float) -> Record:
        if self.meter is None:
            return {}
        rate = self.meter.flops(self.feed.phase(step), objective, float(sums[1]), float(sums[2]), weight) / seconds
        return {"flops_per_second": rate, **({"mfu": rate / self.gang.world_size / self.meter.peak} if self.meter.peak else {})}

    def _about_rows(self, batch: Any) -> dict[str, torch.Tensor]:
        """What is worked out of a batch before it goes to a device, and stays on the CPU: keys of dropout, [B], its flags, and whether no row has padding."""
        flags = {item.name: getattr(batch, item.name) for item in dataclasses.fields(batch) if isinstance(getattr(batch, item.name), bool)}
        flags["is_full"] = bool(np.asarray(batch.attention_BT).all())
        about = {name: torch.tensor(flag) for name, flag in flags.items()}
        if flags.get("within_documents") and self.engine.device.type == "cuda":
            offsets_N1, longest = runs(batch.segments_BT)
            about |= {"run_offsets_N1": torch.from_numpy(offsets_N1).to(self.engine.device), "longest_run": torch.tensor(longest)}
        samples_B = getattr(batch, "samples_B", None)
        if samples_B is not None:
            about["dropout_keys_B"] = torch.from_numpy(bits(self.dropout_key, 0, samples_B).astype(np.int64))
        return about

    def _require_finite(self, what: str, value: float, step: int) -> None:
        """Both figures are the same on every rank, so all raise or none."""
        if not math.isfinite(value):
            if self.spikes.rule.is_on:
                raise _SpikedError(f"{what} is {value}")
            self._hand_on()
            raise StageError(
                f"training: {what} is {value} at step {step + 1}; nothing of that step was saved. "
                "Lower learning_rate or clip, lengthen warmup_steps, or use precision fp32, and go on from the last checkpoint"
            )

    def _count_tokens(self, batch: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Tokens of a batch, Σ length² of the texts whose tokens see each other, and places; tokens are added to those of their languages."""
        per_row = np.asarray(batch.attention_BT).sum(axis=1, dtype=np.int64)
        languages = getattr(batch, "languages_B", None)
        if languages is not None:
            counts = np.zeros(max(int(languages.max(initial=0)) + 1, len(self.tokens_here)), dtype=np.int64)
            np.add.at(counts, languages, per_row)
            counts[: len(self.tokens_here)] += self.tokens_here
            self.tokens_here = counts
        lengths = per_row
        if getattr(batch, "within_documents", False):
            offsets_N1, _ = runs(batch.segments_BT)
            lengths = np.diff(offsets_N1).astype(np.int64)[batch.segments_BT.reshape(-1)[offsets_N1[:-1]] >= 0]
        return np.array([per_row.sum(), np.square(lengths).sum(), np.asarray(batch.attention_BT).size], np.float64)

    def _tokens(self) -> dict[int, int]:
        """Over all ranks and since step 0."""
        width = int(self.engine.max_over_ranks(torch.tensor([len(self.tokens_here)]))[0])
        mine = np.zeros(width, dtype=np.int64)
        mine[: len(self.tokens_here)] = self.tokens_here
        here = self.engine.sum_over_ranks(torch.from_numpy(mine)).tolist()
        totals = {language: self.tokens_before.get(language, 0) for language in self.tokens_before}
        for language, tokens in enumerate(here):
            if tokens:
                totals[language] = totals.get(language, 0) + tokens
        return dict(sorted(totals.items()))

    def _about_ranks(self) -> Record:
        seconds, memory = self.busy.seconds(), float(peak_memory(self.engine.device))
        mean = float(self.engine.sum_over_ranks(torch.tensor([seconds], dtype=torch.float64))[0]) / self.gang.world_size
        slowest, most = self.engine.max_over_ranks(torch.tensor([seconds, memory], dtype=torch.float64)).tolist()
        read = [float(self.gang.local_rank), *self.machine.read()]
        table = torch.zeros(self.gang.world_size, len(read), dtype=torch.float64)
        table[self.gang.rank] = torch.tensor(read, dtype=torch.float64)
        of_ranks = self.engine.sum_over_ranks(table).tolist()
        machines = system_metrics([(int(local_rank), figures) for local_rank, *figures in of_ranks])
        return {"skew": slowest / mean if mean else 1.0, "memory_bytes": most, **machines}

    def _evaluate(self, done: int) -> Mapping[str, float]:
        tokens = {f"tokens/{self.languages[number]}": float(count) for number, count in self._tokens().items()} if self.languages else {}
        return tokens if self.evaluate is None else {**tokens, **self._measured(self.evaluate, done)}

    def _measured(self, evaluate: Callable[[nn.Module, int], Mapping[str, float]], done: int) -> Mapping[str, float]:
        # DeepSpeed's own `eval` leaves the flag of its outer module as it was.
        nn.Module.train(self.engine.module, False)
        with torch.no_grad():
            return evaluate(self.engine.module, done)

    def _preempted(self) -> bool:
        return bool(int(self.engine.max_over_ranks(torch.tensor([int(self.gang.preempted())]))[0]))

    def _hand_on(self) -> None:
        if self.gang.rank == 0 and self.records:
            self.watch(self.records)
        self.records = []

    def _save(self, done: int) -> None:
        meta = CheckpointMeta(
            step=done,
            next_sample=self.feed.skips.data_step(done) * self.feed.global_batch,
            precision=self.engine.settings.precision,
            world_size=self.gang.world_size,
            zero=self.engine.settings.zero,
            tokens_by_language=self._tokens(),
            optimizer=self.engine.settings.optimizer,
            skips=self.feed.skips.ranges,
            recent=self.spikes.recent,
            loss_scale=None if (scale := self.engine.loss_scale) is None else (scale.value, scale.clean),
        )
        self.save(done, self.engine, meta)
        self.gang.checkpointed()


def _due(done: int, every: int) -> bool:
    return every > 0 and done % every == 0
