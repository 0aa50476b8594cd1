"""The batch reader measured: tokens a second of one core, masks included, against Hugging Face's loader, against a training step, and the time to resume.

    python -m tests.benchmarks.reader [--tokens-m 100] [--rounds 12] [--work FOLDER]

NTREX-128 is encoded with a vocabulary of its own words; its documents, drawn by a seed, make token shards of --tokens-m million tokens, which pack lays into rows of 512.

speed     micro-batches of 64 rows over all languages at alpha 0.3, in the order of the plan: gathered from mapped shards, masked, as arrays; padding is not counted.
          The weight of each step is part of it. Beside it, in turn and on the same rows: `datasets` from a mapped Arrow file, shuffled, through a DataLoader with
          `DataCollatorForLanguageModeling` (in a virtual environment of its own below --work), the faster of its formats. Rounds are short and the best counts,
          on either side; rates by processor time are printed beside those by the clock.
step      the reader's time for a micro-batch as a share of a training step (forward, backward, AdamW) of the size `small` on as many rows and one core.
resume    a new process, from opening storage to the first micro-batch of a step: sha256 of all files, the index, loading compiled code. The slowest of three steps, of each the fastest of three tries.
memory    anonymous memory after the first rounds and after the last.

The last line is JSON with the keys tokens_per_s, ratio_hf, step_share, resume_s, memory_growth_mb. The machine should be quiet.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.artifacts import tokens as artifact
from pipeline.manifest import Shard
from pipeline.storage import Storage
from pipeline.tables import write_table
from pipeline.text.text_encoder import TextEncoder
from pipeline.text.tokenizer import Tokenizer, train
from pipeline.text.words import split_words
from pipeline.training.batches import Feed, MicroBatch
from pipeline.training.mixture import Mixture
from pipeline.training.objectives.masked import objective
from stages.pretrain.rows import packed_rows
from tests.benchmarks import corpus_text
from tests.stages import encoded

LENGTH, MICRO_BATCH, GLOBAL_BATCH, SEED = 512, 64, 2048, 7
VOCABULARY = 32_000
SHARDS = 8
ROUND_S = 0.25
HF_ROWS = 20_000
STEPS = (0, 12_345, 10**9)
PEER = ("datasets==5.2.0",)
SCRIPT = Path(__file__).with_name("reader_huggingface.py")
KEYS = ("tokens_per_s", "ratio_hf", "step_share", "resume_s", "memory_growth_mb")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.reader")
    parser.add_argument("--tokens-m", type=float, default=100, help="million tokens in the shards")
    parser.add_argument("--rounds", type=int, default=12, help="rounds of each side")
    parser.add_argument("--work", type=Path, default=Path.home() / "xlm-pipeline-benchmarks" / "reader", help="folder for all that is made")
    default = Path(__file__).resolve().parents[3] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("XLM_PIPELINE_TEST_DATA", default)), help="folder of real text")
    parser.add_argument("--resume", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def _model(data: Path, path: Path) -> bytes:
    """A vocabulary of NTREX's words, made once."""
    if not path.exists():
        counts: Counter[str] = Counter()
        for pool in corpus_text.pools(str(data)):
            for line in pool.heads + pool.tails:
                counts.update(split_words(line))
        path.write_bytes(train(counts, size=VOCABULARY))
    return path.read_bytes()


def prepare(data: Path, work: Path, tokens: int) -> Path:
    """Storage with token shards and their packing; the file names them."""
    index = work / f"index-{tokens}.json"
    if index.exists():
        return index
    encoder, held = TextEncoder(Tokenizer(_model(data, work / "vocabulary.model"))), Storage.at(str(work / "storage"), "benchmark")
    generator = corpus_text.Generator(data, seed=3)
    texts = [generator.document(number) for number in range(20_000)]
    ids, lengths_S = encoder.encode([line for _, text in texts for line in text.split("\n")])
    lines_D = np.array([text.count("\n") + 1 for _, text in texts])
    sentence_D1 = np.concatenate([[0], np.cumsum(lines_D)])
    token_S1 = np.concatenate([[0], np.cumsum(lengths_S)])
    random, shards = np.random.default_rng(1), []
    mean = len(ids) / len(texts)
    for number in range(SHARDS):
        drawn = random.integers(0, len(texts), round(tokens / SHARDS / mean))
        of = [slice(sentence_D1[d], sentence_D1[d + 1]) for d in drawn]
        sizes = [lengths_S[sentences] for sentences in of]
        flat = np.concatenate([ids[token_S1[sentences.start] : token_S1[sentences.stop]] for sentences in of])
        schema = artifact.schema(VOCABULARY)
        offsets = np.cumsum([0, *(int(own.sum()) for own in sizes)])
        columns = {
            "id": pa.array([int(n).to_bytes(16, "big") for n in range(len(drawn))], pa.binary(16)),
            "lang": [texts[d][0] for d in drawn], "lang_b": pa.nulls(len(drawn), pa.string()), "split": ["train"] * len(drawn),
            "ids": pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(flat), type=schema.field("ids").type),
            "sentences": pa.LargeListArray.from_arrays(
                pa.array(np.cumsum([0, *map(len, sizes)])), pa.array(np.concatenate([np.cumsum(own) for own in sizes]), pa.uint32()), type=schema.field("sentences").type
            ),
            "side_a": pa.array(np.diff(offsets), pa.uint32()),
        }  # fmt: skip
        path = held.temporary()
        with write_table(path, schema) as table:
            table.partition(columns)
        published = held.publish(path, f"tokens-{tokens}-{number}.arrow")
        shards.append(Shard("0" * 64, published.path, published.sha256, published.bytes, len(drawn)))
    made = encoded.packed(held, encoded.surveyed(held, shards), length=LENGTH, method="sentences")
    plain = {"packing": [result.files["packing"].plain() for result, _ in made], "tokens": [shard.plain() for shard in shards]}
    index.write_text(json.dumps(plain))
    return index


def open_feed(work: Path, index: Path) -> Feed:
    """What a rank opens when it starts or resumes."""
    plain = json.loads(index.read_text())
    rows = packed_rows(Storage.at(str(work / "storage"), "benchmark"), plain["packing"], plain["tokens"])["train"]
    mixture = Mixture.by_alpha({lang: len(own) for lang, own in rows.items()}, 0.3, SEED)
    return Feed(rows, mixture, objective(), VOCABULARY, SEED, GLOBAL_BATCH)


def batches(feed: Feed) -> Iterator[MicroBatch]:
    """All micro-batches from step 0 on, as one rank takes them."""
    for step in range(1 << 40):
        feed.weight(step)
        yield from feed.micro_batches(step, 0, 1, MICRO_BATCH)


def _round(source: Iterator[MicroBatch]) -> tuple[float, float]:
    """Tokens a second of the clock and of the processor, over about ROUND_S."""
    taken, started_at_s, started_cpu_s = [], time.perf_counter(), time.process_time()
    while time.perf_counter() - started_at_s < ROUND_S:
        batch = next(source)
        taken.append(batch.attention_BT)
    seconds, cpu_s = time.perf_counter() - started_at_s, time.process_time() - started_cpu_s
    tokens = sum(int(attention_BT.sum()) for attention_BT in taken)
    return tokens / seconds, tokens / cpu_s


class HuggingFace:
    """The peer: a process that answers each line with the rates of one round."""

    def __init__(self, work: Path, feed: Feed, model: bytes) -> None:
        from pipeline.text.tokenizer_export import export_huggingface

        folder = work / f"huggingface-{sys.version_info[0]}{sys.version_info[1]}"
        python, done = folder / "bin" / "python", folder / "complete.json"
        if not done.exists() or json.loads(done.read_text()) != list(PEER):
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
            # torch, transformers and pyarrow are this project's own; what is missing of the peer comes in front of them.
            (site,) = (folder / "lib").glob("python*/site-packages")
            (site / "parent.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")) + "\n")
            subprocess.run([str(python), "-m", "pip", "install", "--quiet", *PEER], check=True, timeout=1800)
            done.write_text(json.dumps(list(PEER)))
        export_huggingface(model, work / "tokenizer", LENGTH)
        _write_rows(feed, work / "rows.arrow")
        env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        command = [str(python), str(SCRIPT), str(work / "rows.arrow"), str(work / "tokenizer"), str(MICRO_BATCH), str(ROUND_S)]
        self._process = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def round(self) -> dict[str, tuple[float, float]]:
        """Rates by format."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the peer ended")
        return {name: (float(clock), float(cpu)) for name, (clock, cpu) in json.loads(line).items()}

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)


def _write_rows(feed: Feed, path: Path) -> None:
    """Rows as one would save them for the peer: ids without padding, and which are special, so that the collator need not ask the tokenizer."""
    schema = pa.schema([("input_ids", pa.list_(pa.int32())), ("special_tokens_mask", pa.list_(pa.int8()))])
    plan = feed.mixture.samples(0, HF_ROWS)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for at in range(0, HF_ROWS, 1000):
            ids_BT, lengths_B = [], []
            for language, row in zip(plan.language_N[at : at + 1000], plan.row_N[at : at + 1000], strict=True):
                ids, lengths, _ = feed.rows[feed.mixture.languages[language]].gather(np.array([row]))
                ids_BT.append(ids[0, : lengths[0]])
                lengths_B.append(int(lengths[0]))
            flat, offsets = np.concatenate(ids_BT), pa.array(np.cumsum([0, *lengths_B]), pa.int32())
            arrays = [
                pa.ListArray.from_arrays(offsets, pa.array(values)) for values in (flat.astype(np.int32), (flat <= 2).astype(np.int8))
            ]
            writer.write_batch(pa.record_batch(arrays, schema=schema))


def _step_s(batch: MicroBatch) -> float:
    """Seconds of a training step of the size `small` for a micro-batch, from 4 of its rows, on one thread; the faster of two."""
    import torch

    from pipeline.model.build import build_masked_lm
    from pipeline.model.masked_lm import MaskedLM, masked_lm_loss
    from pipeline.model.sizes import named_size

    torch.set_num_threads(1)
    module = MaskedLM(build_masked_lm(named_size("small"), VOCABULARY, seed=1, dropout=0.1, max_length=LENGTH))
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4)
    rows = 4
    predictions = len(batch.masked_index_M) // len(batch.input_ids_BT) * rows
    fields = {
        name: torch.from_numpy(np.ascontiguousarray(value[:predictions] if name.endswith("_M") else value[:rows]))
        for name, value in vars(batch).items()
        if isinstance(value, np.ndarray)
    }
    times = []
    for _ in range(2):
        started_at_s = time.perf_counter()
        masked_lm_loss(module, fields).backward()
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - started_at_s)
    return min(times) * len(batch.input_ids_BT) / rows


def _anonymous_mb() -> float:
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["RssAnon"].split()[0]) / 1024


def _resumed(work: Path, index: Path, step: int) -> None:
    started_at_s = time.perf_counter()
    feed = open_feed(work, index)
    opened_s = time.perf_counter() - started_at_s
    feed.weight(step)
    next(feed.micro_batches(step, 0, 1, MICRO_BATCH))
    print(json.dumps([time.perf_counter() - started_at_s, opened_s]))


def main() -> None:
    """Run all, print the tables, and the figures as the last line."""
    given = _arguments()
    if not (given.data / "ntrex128").is_dir():
        raise SystemExit(f"no real text at {given.data}: give --data or XLM_PIPELINE_TEST_DATA")
    work = given.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    index = prepare(given.data, work, round(given.tokens_m * 1e6))
    if given.resume is not None:
        _resumed(work, index, given.resume)
        return
    feed = open_feed(work, index)
    total = sum(int(own.span_length.sum()) for own in feed.rows.values())
    print(
        f"{total:,} tokens in {sum(map(len, feed.rows.values())):,} rows of {LENGTH}, {len(feed.rows)} languages, {SHARDS} shards",
        flush=True,
    )
    source, peer = batches(feed), HuggingFace(work, feed, _model(given.data, work / "vocabulary.model"))
    ours: list[tuple[float, float]] = []
    theirs: dict[str, list[tuple[float, float]]] = {}
    _round(source)
    peer.round()
    memory = [0.0, 0.0]
    for number in range(given.rounds):
        ours += [_round(source) for _ in range(3)]
        for name, rates in peer.round().items():
            theirs.setdefault(name, []).append(rates)
        memory[number > 0] = _anonymous_mb()
    peer.close()
    best = [max(rates[way] for rates in ours) for way in (0, 1)]
    for name, rounds in theirs.items():
        print(
            f"  datasets 5.2.0, format {name:8s} {max(r for r, _ in rounds) / 1e6:8.3f} million tokens/s ({max(r for _, r in rounds) / 1e6:.3f} by processor time)"
        )
    print(
        f"  this reader                    {best[0] / 1e6:8.3f} million tokens/s ({best[1] / 1e6:.3f} by processor time; median {np.median([r for r, _ in ours]) / 1e6:.2f}"
        f" and {np.median([r for _, r in ours]) / 1e6:.2f})"
    )
    other = [max(rate[way] for rates in theirs.values() for rate in rates) for way in (0, 1)]
    print(
        f"  ratio {best[0] / other[0]:.1f} by the clock, {best[1] / other[1]:.1f} by processor time; anonymous memory {memory[0]:.0f} MB, then {memory[1]:.0f} MB",
        flush=True,
    )
    batch = next(source)
    step_s, batch_s = _step_s(batch), int(batch.attention_BT.sum()) / best[0]
    print(f"  a step of `small` on {MICRO_BATCH} rows: {step_s:.2f} s; reading them: {batch_s * 1000:.2f} ms", flush=True)
    resumed = []
    for step in STEPS:
        command = [
            sys.executable,
            "-m",
            "tests.benchmarks.reader",
            "--resume",
            str(step),
            "--work",
            str(work),
            "--data",
            str(given.data),
            "--tokens-m",
            str(given.tokens_m),
        ]
        runs = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(3)]
        resumed.append(min(json.loads(run.stdout.splitlines()[-1]) for run in runs))
    print(
        f"  resume: {', '.join(f'step {step:,} {whole:.2f} s (of it opening {opened:.2f})' for step, (whole, opened) in zip(STEPS, resumed, strict=True))}"
    )
    figures: dict[str, Any] = {
        "tokens_per_s": best[0], "ratio_hf": best[0] / other[0], "step_share": batch_s / step_s, "resume_s": max(whole for whole, _ in resumed),
        "memory_growth_mb": memory[1] - memory[0],
    }  # fmt: skip
    assert tuple(figures) == KEYS
    shutil.rmtree(work / "tokenizer")
    (work / "rows.arrow").unlink()
    print(json.dumps({name: round(value, 7) if math.isfinite(value) else None for name, value in figures.items()}))


if __name__ == "__main__":
    main()
