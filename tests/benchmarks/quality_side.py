"""One side of the quality benchmark on one rank: `python -m tests.benchmarks.quality_side SPEC RANK`; see `quality.py`.

SPEC is a JSON file; rank 0 writes the measure beside it. Both sides start from the same weights and see the same rows in the same order.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from pipeline.model.build import build_masked_lm
from pipeline.model.masked_lm import MaskedLM, masked_lm_loss
from pipeline.model.sizes import ModelSize
from pipeline.training.contract import TrainSettings
from pipeline.training.loop import train
from pipeline.training.precision import resolve_precision
from stages.pretrain import Config
from stages.pretrain.feeds import feed_of
from stages.pretrain.heldout import bytes_of_pieces, held_out_loss, masked_bytes
from tests.benchmarks.prepared import Prepared, opened
from tests.benchmarks.pretrain_side import leave
from tests.training.harness import RankGang

PROBE = 16
"""Steps of the probe, of which the first two warm up; the median counts."""
WARMUP = 0.06
RATE_OF_MASKS = 0.15


def main() -> None:
    """Train the rank's side and measure it."""
    path, rank = Path(sys.argv[1]), int(sys.argv[2])
    spec = json.loads(path.read_text())
    torch.set_num_threads(spec["threads"])
    world = spec["ranks"]
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(spec["port"]))
    prepared = opened(Path(spec["data"]), spec["name"])
    spec["precision"] = resolve_precision("auto", torch.device("cpu"))
    dist.init_process_group("gloo", rank=rank, world_size=world)
    side = {"ours": ours, "hf": hugging_face}[spec["side"]]
    probe = side(spec, rank, prepared, PROBE, path.parent)
    # Rank 0 alone keeps the time here.
    steps = max(1, int(spec["seconds"] / float(np.median(np.diff(probe["ends"])[1:])))) if rank == 0 else 0
    agreed = torch.tensor([steps])
    dist.broadcast(agreed, src=0)
    found = side(spec, rank, prepared, int(agreed[0]), path.parent)
    model = found["model"]
    # The peer's trainer may have let go of the group; one rank measures all.
    if rank == 0:
        ended = found["ends"]
        result = measure(MaskedLM(model).eval(), prepared) | {
            "steps": len(ended) - 1,
            "trained_s": ended[-1] - ended[0],
            "tokens": found["tokens"],
        }
        (path.parent / "result.partial").write_text(json.dumps(result))
        (path.parent / "result.partial").replace(path.parent / "result.json")
    leave()


def model_of(spec: dict[str, Any], prepared: Prepared) -> Any:
    """The first weights, which the seed draws."""
    layers, hidden, heads, intermediate = spec["size"]
    size = ModelSize(layers, hidden, heads, intermediate, prepared.length + 2, None)
    return build_masked_lm(size, prepared.vocabulary_size, seed=spec["seed"], dropout=0.0, max_length=prepared.length)


def feed_for(spec: dict[str, Any], prepared: Prepared, steps: int) -> Any:
    """The rows of a run of so many steps, masked our way; the peer takes the rows alone."""
    config = Config(steps=steps, global_batch=spec["global_batch"])
    return feed_of(config, prepared.rows["train"], prepared.vocabulary_size, spec["seed"])


def ours(spec: dict[str, Any], rank: int, prepared: Prepared, steps: int, folder: Path) -> dict[str, Any]:
    """This engine, with the defaults of `pretrain` but for optimizer and rate."""
    default, model = Config(), model_of(spec, prepared)
    settings = TrainSettings(
        steps=steps, micro_batch=spec["global_batch"] // spec["ranks"], learning_rate=spec["rate"], warmup_steps=round(default.warmup * steps),
        schedule=default.schedule, weight_decay=default.weight_decay, betas=default.betas, eps=default.eps, clip=default.clip,
        optimizer=spec["optimizer"], precision=spec["precision"], log_every=1, seed=spec["seed"], threads=spec["threads"],
    )  # fmt: skip
    ends, tokens = [time.perf_counter()], [0.0]

    def watch(records: list[Any]) -> None:
        ends.append(time.perf_counter())
        tokens[0] += sum(record["tokens"] for record in records)

    train(
        settings, MaskedLM(model), feed_for(spec, prepared, steps), masked_lm_loss, RankGang(rank, spec["ranks"], rank), resume_from=None,
        save=lambda *_: None, watch=watch, evaluate=None,
    )  # fmt: skip
    return {"model": model, "ends": ends, "tokens": int(tokens[0])}


class Rows(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """The rows of a run in the order of training, unmasked, read as they are asked for."""

    def __init__(self, spec: dict[str, Any], prepared: Prepared, steps: int) -> None:
        feed = feed_for(spec, prepared, steps).feeds[0]
        # Every prediction is put back, so what is left is the text.
        self.feed, self.batch, self.steps = dataclasses.replace(feed, trim=False), spec["global_batch"], steps
        self.step, self.rows = -1, np.zeros((0, 0), np.int64)

    def __len__(self) -> int:
        return self.steps * self.batch

    def __getitem__(self, at: int) -> dict[str, torch.Tensor]:
        if at // self.batch != self.step:
            self.step = at // self.batch
            (made,) = self.feed.micro_batches(self.step, 0, 1, self.batch)
            rows = made.input_ids_BT.copy()
            used = made.weights_M > 0
            rows.reshape(-1)[made.masked_index_M[used]] = made.labels_M[used]
            self.rows = rows
        row = self.rows[at % self.batch]
        return {"input_ids": torch.from_numpy(row), "attention_mask": torch.from_numpy((row != 1).astype(np.int64))}


def hugging_face(spec: dict[str, Any], rank: int, prepared: Prepared, steps: int, folder: Path) -> dict[str, Any]:
    """The library's `Trainer`, collator and model class. Its loss-scaling fault is worked around as in `pretrain_side`."""
    from transformers import AutoTokenizer, DataCollatorForLanguageModeling, Trainer, TrainerCallback, TrainingArguments

    from pipeline.text.tokenizer_export import export_huggingface

    tokenizer_folder = folder / f"tokenizer.{rank}"
    tokenizer_folder.mkdir(exist_ok=True)
    export_huggingface(prepared.vocabulary.read_bytes(), tokenizer_folder, prepared.length)
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder, local_files_only=True)
    ends: list[float] = []
    began = [0.0]

    class Clock(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            began[0] = time.perf_counter()
            ends.append(began[0])

        def on_step_end(self, arguments: Any, state: Any, control: Any, **__: Any) -> None:
            ends.append(time.perf_counter())

    class InOrder(Trainer):
        def _get_train_sampler(self, *_: Any, **__: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    torch.manual_seed(spec["seed"])
    model = model_of(spec, prepared)
    arguments = TrainingArguments(
        output_dir=str(folder / f"hf.{rank}"), per_device_train_batch_size=spec["global_batch"] // spec["ranks"], max_steps=steps,
        learning_rate=spec["rate"], lr_scheduler_type="linear", warmup_steps=round(WARMUP * steps), weight_decay=0.01, adam_beta1=0.9,
        adam_beta2=0.98, adam_epsilon=1e-6, max_grad_norm=1.0, optim="adamw_torch_fused", bf16=spec["precision"] == "bf16", use_cpu=True,
        ddp_backend="gloo", save_strategy="no", report_to=[], logging_steps=100, disable_tqdm=True, dataloader_pin_memory=False, seed=spec["seed"],
    )  # fmt: skip
    data = Rows(spec, prepared, steps)
    collator = DataCollatorForLanguageModeling(tokenizer=tokenizer, mlm_probability=RATE_OF_MASKS)
    trainer = InOrder(model=model, args=arguments, train_dataset=data, data_collator=collator, callbacks=[Clock()])
    trainer.model_accepts_loss_kwargs = False
    trainer.train()
    lengths = sum(int((data[at]["attention_mask"]).sum()) for at in range(0, len(data), max(1, len(data) // 2000)))
    sampled = len(range(0, len(data), max(1, len(data) // 2000)))
    return {"model": model, "ends": ends, "tokens": lengths * len(data) // sampled}


def measure(module: Any, prepared: Prepared) -> dict[str, Any]:
    """Bits per byte of each language's masked pieces, and how many tokens each has to train on."""
    held, size = prepared.rows["heldout"], prepared.vocabulary_size
    torch.set_num_threads(2)
    with torch.no_grad():
        nats = held_out_loss(module, held, size, 0, 1)
    covered = masked_bytes(held, bytes_of_pieces(prepared.vocabulary.read_bytes()), size)
    return {
        "bits_per_byte": {lang: total / math.log(2) / covered[lang] for lang, (total, _) in sorted(nats.items()) if covered[lang]},
        "sizes": {lang: int(packed.row_lengths().sum()) for lang, packed in prepared.rows["train"].items()},
    }


if __name__ == "__main__":
    main()
