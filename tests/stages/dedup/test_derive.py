"""Bounds derived from the corpus: quantiles from histograms that add up, and what is chosen with its evidence."""

import json
import random
from pathlib import Path
from statistics import pstdev
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from stages.dedup import Config
from stages.dedup.sketch import Histogram, buckets, edges
from tests.stages.dedup.inside import Run, Stage

VALUES = st.lists(st.integers(0, 2**31 - 1) | st.integers(0, 300), min_size=1, max_size=60)


def histogram(*parts: list[int]) -> Histogram:
    made = Histogram()
    for part in parts:
        made.add(*np.unique(buckets(np.array(part, np.int64)), return_counts=True))
    return made


@given(VALUES)
def test_each_value_lies_in_its_bucket_and_buckets_are_narrow(values: list[int]) -> None:
    for value, bucket in zip(values, buckets(np.array(values, np.int64)).tolist(), strict=True):
        low, high = edges(bucket)
        assert low <= value <= high and (high - low) * 128 <= low
        assert edges(bucket + 1)[0] == high + 1


@given(VALUES, st.integers(0, 10_000), st.integers(0, 60))
def test_a_quantile_is_that_of_the_sorted_values_to_the_width_of_a_bucket(values: list[int], share: int, cut: int) -> None:
    exact = sorted(values)[max(1, -(-len(values) * share // 10_000)) - 1]
    whole, added = histogram(values), histogram(values[cut:], values[:cut])
    low, high = whole.quantile(share, upper=False), whole.quantile(share, upper=True)
    assert low <= exact <= high and (high - low) * 128 <= exact
    assert added.quantile(share, upper=True) == high and added.deviation() == whole.deviation()


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=60))
def test_the_deviation_is_that_of_the_values_to_the_width_of_a_bucket(values: list[int]) -> None:
    assert abs(histogram(values).deviation() - pstdev(values)) <= 2 + max(values) / 128


def test_a_quantile_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="of nothing"):
        Histogram().quantile(5_000, upper=True)


# ---------------------------------------------------------------- in a run

RULES: dict[str, Any] = {"rules": ("length", "gopher"), "gopher": {"min_words": 0, "min_stop_words": 0}, "near": None}
BOUND = "gopher.max_mean_word_length"


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path / "storage")


def written(stage: Stage, found: Run) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(stage.storage.local(found.output.evidence_files["thresholds.json"].path).read_text())
    return made


def documents(lang: str, count: int, letters: int) -> list[dict[str, Any]]:
    """Texts with words of so many letters, the last with words twice as long."""
    draw = random.Random(lang)
    made = []
    for n in range(count):
        length = letters * (2 if n == count - 1 else 1)
        text = " ".join("".join(draw.choices("abcdefghij", k=length)) for _ in range(20))
        made.append({"name": f"{lang} {n}", "text": text, "lang": lang})
    return made


def test_a_bound_moves_to_the_quantile_of_a_language_with_documents_enough(stage: Stage) -> None:
    """Finnish words of 14 letters are beyond the bound of 10 that is right for English; German has too few documents to tell."""
    shards = [stage.shard(documents("fi", 40, 14)), stage.shard([*documents("de", 5, 14), *documents("en", 30, 5)])]
    plain = stage.run(shards, RULES)
    assert sum(reason == "gopher_long_words" for reason in plain.reasons().values()) == 40 + 5
    derive = {"min_documents": 10, "bounds": {BOUND: {"quantile": 0.95, "floor": 8.0, "ceiling": 20.0}}}
    found = stage.run(shards, {**RULES, "derive": derive})
    assert found.reasons() == {
        "fi 39": "gopher_long_words",
        "en 29": "gopher_long_words",
        **{f"de {n}": "gopher_long_words" for n in range(5)},
    }
    evidence = written(stage, found)[BOUND]
    assert (evidence["fi"]["documents"], evidence["fi"]["default"], evidence["fi"]["because"]) == (40, 10, "quantile")
    assert (
        14 <= evidence["fi"]["chosen"] <= 14 * (1 + 1 / 128)
        and evidence["fi"]["median"] == evidence["fi"]["p95"] == evidence["fi"]["chosen"]
    )
    assert (evidence["en"]["chosen"], evidence["en"]["because"]) == (8, "floor") and evidence["en"]["derived"] < 5.1
    assert (evidence["de"]["chosen"], evidence["de"]["because"], evidence["de"]["derived"]) == (10, "too_few_documents", None)


def test_a_bound_that_the_configuration_gives_a_language_stands(stage: Stage) -> None:
    shards = [stage.shard(documents("fi", 40, 14))]
    derive = {"min_documents": 10, "bounds": {BOUND: {"quantile": 0.95, "floor": 8.0, "ceiling": 20.0}}}
    gopher = {**RULES["gopher"], "languages": {"fi": {"max_mean_word_length": 30.0}}}
    assert not stage.run(shards, {**RULES, "gopher": gopher, "derive": derive}).reasons()


def test_new_documents_are_sketched_alone_and_what_the_bounds_leave_is_not_judged_again(stage: Stage) -> None:
    derive = {"min_documents": 10, "bounds": {BOUND: {"quantile": 0.95, "floor": 8.0, "ceiling": 20.0}}}
    old = [stage.shard(documents("fi", 40, 14))]
    stage.run(old, {**RULES, "derive": derive})
    found = stage.run([*old, stage.shard(documents("en", 20, 5))], {**RULES, "derive": {**derive, "min_documents": 30}})
    assert (found.worked["hash"], found.worked["sketch"], found.worked["judge"], found.worked["thresholds"]) == (1, 1, 1, 1)


def test_a_score_of_identification_is_held_against_the_median_less_a_deviation_of_its_own_language(stage: Stage) -> None:
    texts = documents("sw", 50, 12)
    for n, each in enumerate(texts):
        each |= {"identified": "sw" if n % 5 else "en", "identified_score": 7_000 + 20 * n if n != 31 else 4_000}
    settings = {"rules": ("language",), "near": None, "derive": {"min_documents": 10}}
    found = stage.run([stage.shard(texts)], settings)
    evidence = written(stage, found)["language.min_own_score"]["sw"]
    assert evidence["documents"] == 40 and evidence["because"] == "median_less_deviation"
    own = [each["identified_score"] for n, each in enumerate(texts) if n % 5]
    wanted = (sorted(own)[19] - pstdev(own)) / 10_000
    assert abs(evidence["chosen"] - wanted) < 0.01
    uncertain = {name for name, reason in found.reasons().items() if reason == "uncertain_language"}
    assert "sw 31" in uncertain and uncertain == {
        f"sw {n}" for n in range(50) if n % 5 and texts[n]["identified_score"] < evidence["chosen"] * 10_000
    }


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"gopher": {"languages": {"th": {"min_mean_length": 2}}}}, "unknown bound of th 'min_mean_length', did you mean \"min_mean_word_length\"?"),
        ({"gopher": {"languages": {"th": {"min_words": -1}}}}, "th.min_words: -1: Input should be greater than or equal to 0"),
        ({"gopher": {"languages": {"qqq": {"min_words": 1}}}}, "qqq"),
        ({"derive": {"bounds": {"gopher.min_shoes": {}}}}, "derive.bounds.gopher.min_shoes: not a bound of a rule; write RULE.BOUND"),
        ({"derive": {"bounds": {"gopher.min_words": {"floor": 2.0, "ceiling": 1.0}}}}, "floor 2.0 is above ceiling 1.0"),
        ({"derive": {"bounds": {"gopher.min_words": {"column": "shoes"}}}}, "column 'shoes' is not measured"),
        ({"derive": {"bounds": {"c4.min_sentences": {}, "language.min_score": {}}}}, "derive.bounds.language.min_score: score is not measured; name a `column`"),
    ],
)  # fmt: skip
def test_a_bound_that_is_not_there_is_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises((ValidationError, Exception)) as raised:
        Config.model_validate(settings)
    assert words in str(raised.value)


def test_aliases_of_a_language_name_the_same_bounds() -> None:
    assert Config.model_validate({"length": {"languages": {"iw": {"min_words": 2}}}}).length.languages == {"he": {"min_words": 2}}
