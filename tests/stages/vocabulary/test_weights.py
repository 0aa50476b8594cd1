"""Weights of languages: α, UniMax, explicit shares, groups; and words that are left out are told."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.errors import ConfigError
from pipeline.tables import write_table
from stages.vocabulary import Config
from stages.vocabulary.counts import WORDS
from stages.vocabulary.weights import BITS, required_characters, weighted_words, weights_for

SIZES = {"en": 1_000_000, "sw": 10_000, "yo": 100}
ONE = 1 << BITS


def shares(config: Config, sizes: dict[str, int] = SIZES) -> dict[str, float]:
    """Share of each language after weighting."""
    weights = weights_for(config, sizes)
    total = sum(weights[lang] * n for lang, n in sizes.items())
    return {lang: weights[lang] * n / total for lang, n in sizes.items()}


def test_alpha_raises_small_languages_and_one_keeps_the_corpus_as_it_is() -> None:
    assert weights_for(Config(alpha=1), SIZES) == dict.fromkeys(SIZES, ONE)
    assert shares(Config(alpha=0)) == pytest.approx(dict.fromkeys(SIZES, 1 / 3), rel=1e-4)
    found = shares(Config(alpha=0.5))
    assert found["en"] / found["sw"] == pytest.approx(10, rel=1e-3) and found["sw"] / found["yo"] == pytest.approx(10, rel=1e-3)


def test_unimax_is_even_up_to_the_most_epochs() -> None:
    found = weights_for(Config(sampling="unimax", max_epochs=5), SIZES)
    assert found["sw"] == found["yo"]  # both repeated as often as may be
    assert found["sw"] / found["en"] == pytest.approx(5 / ((1_010_100 - 50_500) / 1_000_000), rel=1e-3)
    assert shares(Config(sampling="unimax", max_epochs=1e6)) == pytest.approx(dict.fromkeys(SIZES, 1 / 3), rel=1e-4)


def test_explicit_weights_are_the_shares_and_each_language_with_text_needs_one() -> None:
    config = Config(sampling="weights", language_weights={"en": 0.5, "sw": 0.3, "yo": 0.2, "ha": 1})
    assert shares(config) == pytest.approx({"en": 0.5, "sw": 0.3, "yo": 0.2}, rel=1e-4)
    with pytest.raises(ConfigError, match="no weight for am"):
        weights_for(config, {**SIZES, "am": 5})
    with pytest.raises(ValueError, match="go together"):
        Config(language_weights={"en": 1})


def test_languages_of_a_group_count_as_one_and_share_a_weight() -> None:
    config = Config(alpha=0, groups={"small": ("sw", "yo")})
    found = weights_for(config, SIZES)
    assert found["sw"] == found["yo"]
    held = shares(config)
    assert held["en"] == pytest.approx(0.5, rel=1e-4) and held["sw"] / held["yo"] == pytest.approx(100, rel=1e-3)
    with pytest.raises(ValueError, match="more than one"):
        Config(groups={"a": ("en",), "b": ("en", "sw")})


@pytest.fixture
def partitions(tmp_path: Path) -> list[Path]:
    rows = [[("en", "▁the", 90), ("en", "▁rare", 1), ("sw", "▁the", 3)], [("en", "▁of", 50), ("sw", "▁na", 7), ("yo", "▁ọ̀rọ̀", 1)]]
    paths = []
    for number, part in enumerate(rows):
        paths.append(tmp_path / f"{number}.arrow")
        with write_table(paths[-1], WORDS) as table:
            table.batch(pa.table({name: [row[at] for row in part] for at, name in enumerate(WORDS.names)}, schema=WORDS))
    return paths


def test_the_rarest_words_beyond_the_most_are_left_out_and_their_mass_is_told(partitions: list[Path]) -> None:
    weights = dict.fromkeys(("en", "sw", "yo"), ONE)
    everything = weighted_words(partitions, weights, 100)
    assert everything.pruned_words == 0
    assert [(word, count) for words, counts in everything() for word, count in zip(words.to_pylist(), counts.tolist(), strict=True)] == [
        ("▁the", 90), ("▁rare", 1), ("▁the", 3), ("▁of", 50), ("▁na", 7), ("▁ọ̀rọ̀", 1),
    ]  # fmt: skip
    some = weighted_words(partitions, weights, 5)  # two stand once: both go
    assert (some.pruned_words, some.pruned_millionths) == (2, 2 * 1_000_000 // 152)
    assert sum(len(words) for words, _ in some()) == 4


def test_each_language_gets_its_own_characters_whatever_its_size(partitions: list[Path]) -> None:
    assert set("ọ̀r") <= set(required_characters(partitions, 0.999))
    assert set(required_characters(partitions, 0.3)) < set(required_characters(partitions, 1.0))
    assert required_characters(partitions, 0) == ""
