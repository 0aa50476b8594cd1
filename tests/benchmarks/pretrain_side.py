"""One side of the pretraining benchmark on one rank: `python -m tests.benchmarks.pretrain_side SPEC RANK`.

SPEC is a JSON file (see `pretrain.py`); rank 0 writes {"losses": […], "seconds": […]}, both by step, beside it.
Both sides get the same weights, the same rows, the same masks and the same optimizer's settings.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from pipeline.model.build import build_masked_lm
from pipeline.model.masked_lm import MaskedLM, masked_lm_loss
from pipeline.model.sizes import ModelSize
from pipeline.training.precision import time_matmul
from tests.benchmarks import pretrain_data
from tests.training.harness import RankGang

RATE, BETAS, EPS, DECAY, CLIP = 1e-4, (0.9, 0.98), 1e-6, 0.01, 1.0
PRODUCT = 2048
"""A side of the matrices of the best product."""
IGNORED = -100
"""Label of a place where Hugging Face's loss predicts nothing."""


def main() -> None:
    """Train the rank's side."""
    path, rank = Path(sys.argv[1]), int(sys.argv[2])
    spec = json.loads(path.read_text())
    world = spec["ranks"]
    torch.set_num_threads(spec["threads"])
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(spec["port"]))
    # With two ranks both time their products at once, as in training.
    dtype = torch.bfloat16 if spec["precision"] == "bf16" else torch.float32
    product_flops = 2 * PRODUCT**3 / time_matmul(dtype, PRODUCT, 5)
    layers, hidden, heads, intermediate = spec["size"]
    size = ModelSize(layers, hidden, heads, intermediate, spec["length"] + 2, None)
    model = build_masked_lm(size, spec["vocab"], seed=3, dropout=spec["dropout"], max_length=spec["length"])
    feed = pretrain_data.feed(Path(spec["data"]), vocab_size=spec["vocab"], length=spec["length"], global_batch=spec["global_batch"])
    result = {"ours": ours, "hf": hugging_face}[spec["side"]](spec, rank, model, feed, path.parent)
    result |= {"precision": spec["precision"], "product_flops": product_flops}
    if rank == 0:
        (path.parent / "result.json").write_text(json.dumps(result))
    leave()


def leave() -> None:
    """End the process now: a thread that gloo left running would now and then abort it where the interpreter ends."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def ours(spec: dict[str, Any], rank: int, model: Any, feed: Any, folder: Path) -> dict[str, Any]:
    """This engine: its loop over DeepSpeed."""
    from pipeline.training.contract import TrainSettings
    from pipeline.training.loop import train

    if spec["ranks"] > 1:
        dist.init_process_group("gloo", rank=rank, world_size=spec["ranks"])
    settings = TrainSettings(
        steps=spec["steps"], micro_batch=spec["micro"], learning_rate=RATE, schedule="constant", weight_decay=DECAY, betas=BETAS, eps=EPS,
        clip=CLIP, precision=spec["precision"], log_every=1, zero=spec["zero"], threads=spec["threads"],
    )  # fmt: skip
    losses: list[float] = []
    ends = [time.perf_counter()]

    def watch(records: list[Any]) -> None:
        ends.append(time.perf_counter())
        losses.extend(record["loss"] for record in records)

    train(
        settings, MaskedLM(model, compiled=spec.get("compiled", False)), feed, masked_lm_loss, RankGang(rank, spec["ranks"], rank), resume_from=None, save=lambda *_: None,
        watch=watch, evaluate=None,
    )  # fmt: skip
    if spec["ranks"] > 1:
        dist.destroy_process_group()
    return {"losses": losses, "seconds": [end - start for start, end in itertools.pairwise(ends)]}


class Rows(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Every masked row of the run, in the order of training, made before the clock starts."""

    def __init__(self, spec: dict[str, Any], feed: Any) -> None:
        self.rows: list[dict[str, torch.Tensor]] = []
        for step in range(spec["steps"]):
            for batch in feed.micro_batches(step, 0, 1, spec["global_batch"]):
                labels = torch.full(batch.input_ids_BT.shape, IGNORED)
                used = torch.from_numpy(batch.weights_M > 0)
                labels.view(-1)[torch.from_numpy(batch.masked_index_M)[used]] = torch.from_numpy(batch.labels_M)[used]
                ids, attention = torch.from_numpy(batch.input_ids_BT), torch.from_numpy(batch.attention_BT).long()
                self.rows += [{"input_ids": ids[b], "attention_mask": attention[b], "labels": labels[b]} for b in range(len(ids))]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, at: int) -> dict[str, torch.Tensor]:
        return self.rows[at]


def hugging_face(spec: dict[str, Any], rank: int, model: Any, feed: Any, folder: Path) -> dict[str, Any]:
    """The library's `Trainer`, with its own model class and loss.

    Its loss-scaling fault: with a `num_items_in_batch` the heads of XLM-R divide by the wrong count. Told that the model takes none, it averages over
    micro-batches and ranks, which is right here because every row has equally many masked places.
    """
    from transformers import Trainer, TrainerCallback, TrainingArguments

    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            ends.append(time.perf_counter())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(time.perf_counter())

    class InOrder(Trainer):
        def _get_train_sampler(self, *_: Any, **__: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    accumulation = spec["global_batch"] // spec["ranks"] // spec["micro"]
    arguments = TrainingArguments(
        output_dir=str(folder / f"hf.{rank}"), per_device_train_batch_size=spec["micro"], gradient_accumulation_steps=accumulation, max_steps=spec["steps"],
        learning_rate=RATE, lr_scheduler_type="constant", weight_decay=DECAY, adam_beta1=BETAS[0], adam_beta2=BETAS[1], adam_epsilon=EPS,
        max_grad_norm=CLIP, optim="adamw_torch_fused", bf16=spec["precision"] == "bf16", use_cpu=True, ddp_backend="gloo" if spec["ranks"] > 1 else None,
        save_strategy="no", report_to=[], logging_steps=1, logging_nan_inf_filter=False, disable_tqdm=True, dataloader_pin_memory=False, seed=3,
    )  # fmt: skip
    trainer = InOrder(model=model, args=arguments, train_dataset=Rows(spec, feed), callbacks=[Clock()])
    trainer.model_accepts_loss_kwargs = False
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {"losses": losses, "seconds": [end - start for start, end in itertools.pairwise(ends)]}


if __name__ == "__main__":
    main()
