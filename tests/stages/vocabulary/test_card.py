"""The card: figures by language, parity on aligned documents, longest pieces."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from pipeline.tables import write_table
from pipeline.text.packing import UNK
from pipeline.text.tokenizer import Tokenizer, train
from stages.vocabulary.card import MEASURED, assemble, measure
from stages.vocabulary.counts import WORDS
from stages.vocabulary.parity import SIZES, longest, parity, share_of
from stages.vocabulary.plots import compared_plot, fallback_plot, fertility_plot, parity_plot

ROWS = [("en", "▁river", 5), ("en", "▁rivers", 2), ("sw", "▁mto", 3), ("sw", "▁龘", 4), ("en", "▁the", 90)]


def card(tmp_path: Path, tokenizer: Tokenizer, cuts: int) -> dict:
    """The card of the rows in one or more partitions."""
    paths = []
    for part in range(cuts):
        path, measured = tmp_path / f"w{cuts}-{part}", tmp_path / f"m{cuts}-{part}"
        with write_table(path, WORDS) as table:
            table.batch(pa.table([list(column) for column in zip(*ROWS[part::cuts], strict=True)], schema=WORDS))
        with write_table(measured, MEASURED) as table:
            table.batch(measure(path, tokenizer))
        paths.append(measured)
    return assemble(paths, tokenizer.size, {"en": 7, "sw": 9})[0]


def test_figures_are_sums_over_words_by_count_whatever_the_partitions(tmp_path: Path) -> None:
    tokenizer = Tokenizer(train({"▁river": 50, "▁rivers": 20, "▁mto": 30, "▁the": 90}, size=275, character_coverage=1.0))
    found = card(tmp_path, tokenizer, 1)
    assert found == card(tmp_path, tokenizer, 2)
    ids = {word: tokenizer.encode_words([word])[0].tolist() for _, word, _ in ROWS}
    assert UNK not in ids["▁龘"]
    sw = found["languages"]["sw"]
    assert sw["words"] == 7 and sw["pieces"] == 3 * len(ids["▁mto"]) + 4 * len(ids["▁龘"])
    assert sw["characters"] == 3 * 3 + 4 and sw["weight"] == 9
    assert sw["byte_fallback_share"] == 4 * 3 * 10_000 // sw["pieces"] and sw["unknown_share"] == 0
    assert sw["pieces_used"] == len({*ids["▁mto"], *ids["▁龘"]}) and sw["pieces_used_share"] == sw["pieces_used"] * 10_000 // 275
    assert found["mean"]["words"] == 104 and found["pieces_used"] == len({index for row in ids.values() for index in row})
    assert longest(tokenizer, 2)[0] == max((p for i, p in enumerate(tokenizer.pieces()) if tokenizer.is_ordinary(i)), key=len)
    languages = {lang: entry | {"parity": value} for (lang, entry), value in zip(found["languages"].items(), (10_000, 15_000), strict=True)}
    full = found | {"languages": languages, "compared": {"other one": found}}
    for number, plot in enumerate((fertility_plot, fallback_plot, parity_plot, compared_plot)):
        plot(full, tmp_path / f"{number}.svg")
    assert all((tmp_path / f"{number}.svg").read_text().startswith("<?xml") for number in range(4))
    assert "other one" in (tmp_path / "3.svg").read_text()  # what is drawn stands in the file's comments too


def test_parity_is_over_groups_that_both_languages_have(tmp_path: Path) -> None:
    rows = [("1", "en", 10), ("1", "sw", 15), ("2", "en", 20), ("3", "sw", 99), ("1", "yo", 30), ("2", "yo", 30)]
    paths = []
    for part in range(2):
        paths.append(tmp_path / str(part))
        with write_table(paths[-1], SIZES) as table:
            table.batch(pa.table([list(column) for column in zip(*rows[part::2], strict=True)], schema=SIZES))
    assert parity(paths) == {"en": 10_000, "sw": 15_000, "yo": 20_000}
    assert share_of(10) == 1_000_000 and share_of(40_000_000) == 500
