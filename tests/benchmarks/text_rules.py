"""Text rules a text and a rule at a time, as `clean` once did, beside whole batches behind gates, on the same documents in turn.

`python -m tests.benchmarks.text_rules [folder of NTREX-128] [MB]` joins sixteen lines of a file to a document, as many as make 8 MB over all files, runs each side three times in
turn, and prints the best of each. Its last line is JSON: `loop_mb_s` and `batch_mb_s` (megabytes of UTF-8 a CPU second), `ratio`, `rules`, `documents`, `mb`, `changed`; the two sides must give the same texts.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pyarrow as pa

from pipeline.errors import ConfigError
from pipeline.text.languages import lookup
from stages.clean.rewrite import Rewriter
from stages.clean.rules import DEFAULT, RULES, load

LINES = 16
TIMES = 3


def documents(folder: Path, most_bytes: int) -> list[tuple[str, str]]:
    """(language, text), an equal share of each file."""
    files = sorted(folder.glob("newstest2019-*.txt"))
    found = []
    for file in files:
        lines = file.read_text(encoding="utf-8").split("\n")
        lang, size = _language(file.name.split(".")[1]), 0
        for at in range(0, len(lines), LINES):
            text = "\n".join(lines[at : at + LINES])
            found.append((lang, text))
            size += len(text.encode())
            if size >= most_bytes // len(files):
                break
    return found


def _language(name: str) -> str:
    for code in (name, name.split("-")[0].split("_")[0]):
        try:
            return lookup(code).code
        except ConfigError:
            continue
    return "und"


def loop(given: list[tuple[str, str]], names: tuple[str, ...]) -> list[str]:
    """Each rule on each text."""
    rules, found = load(names), []
    for lang, text in given:
        language = None if lang == "und" else lookup(lang)
        for rule in rules:
            cleaned = rule.apply(text, language)
            if cleaned != text:
                text = cleaned
        found.append(text)
    return found


def main() -> None:
    """Run both sides for several lists of rules."""
    data = Path(os.environ.get("XLM_PIPELINE_TEST_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else data / "ntrex128"
    given = documents(folder, int(float(sys.argv[2]) * 1e6) if len(sys.argv) > 2 else 8_000_000)
    langs, column = [lang for lang, _ in given], pa.array([text for _, text in given])
    size = sum(len(text.encode()) for _, text in given) / 1e6
    last = {}
    for names in (("markup", "normalise"), DEFAULT, tuple(RULES)):
        best = {"loop": float("inf"), "batch": float("inf")}
        for _ in range(TIMES):
            before_s = time.process_time()
            one_by_one = loop(given, names)
            best["loop"] = min(best["loop"], time.process_time() - before_s)
            rewriter = Rewriter(names)
            before_s = time.process_time()
            whole = rewriter.rewrite(column, langs)
            best["batch"] = min(best["batch"], time.process_time() - before_s)
            assert whole.to_pylist() == one_by_one
        print(
            f"{len(given)} documents, {size:.2f} MB, {', '.join(names)}: loop {size / best['loop']:.1f} MB/s, batch {size / best['batch']:.1f} MB/s"
        )
        if names == DEFAULT:
            last = {
                "loop_mb_s": round(size / best["loop"], 2), "batch_mb_s": round(size / best["batch"], 2), "ratio": round(best["loop"] / best["batch"], 2),
                "rules": list(names), "documents": len(given), "mb": round(size, 2), "changed": rewriter.counts()["changed"],
            }  # fmt: skip
    print(json.dumps(last))


if __name__ == "__main__":
    main()
