"""Language identification."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.text.identify import UNDETERMINED, Identified, agrees, identify, identify_all, supported
from pipeline.text.languages import NAMED_SETS, known, lookup


@pytest.mark.parametrize(
    ("text", "lang"),
    [
        ("All human beings are born free and equal in dignity and rights.", "en"),
        ("Alle Menschen sind frei und gleich an Würde und Rechten geboren.", "de"),
        ("Regjeringen la i går fram et forslag som skal gjøre det enklere å få hjelp hvis man ikke har noe sted å bo.", "nb"),
        ("人人生而自由,在尊严和权利上一律平等。", "zh-Hans"),
        ("כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם.", "he"),
        ("Все люди рождаются свободными и равными в своем достоинстве и правах.", "ru"),
    ],
)
def test_plain_sentences_are_named_by_canonical_codes(text: str, lang: str) -> None:
    found = identify(text)
    assert found.lang == lang and 5_000 <= found.score <= 10_000
    assert identify(text) == found


@pytest.mark.parametrize(
    ("text", "lang"),
    [
        ("Eg veit ikkje kva dei seier, men eg trur at det er sant frå før.", "nn"),
        ("Jeg ved ikke, hvad de siger til mig, men jeg tror, at det er sandt.", "da"),
        ("Све што је рекао тачно је и ја му верујем, али нисам сигуран.", "sr"),
        ("Сите луѓе се раѓаат слободни и еднакви по достоинство и права.", "mk"),
        ("Prošli tjedan u Europi rekli su da je točno tisuću ljudi na sveučilištu.", "hr"),
        ("Prošle sedmice u Evropi rekli su da je tačno hiljadu ljudi na univerzitetu.", "bs"),
        ("這個國家的人民要求政府說明為什麼會發生這樣的事情。", "zh-Hant"),
        ("这个国家的人民要求政府说明为什么会发生这样的事情。", "zh-Hans"),
        ("Saya tidak tahu kerana mereka berkata bahawa kereta itu berbeza.", "ms"),
    ],
)
def test_close_relatives_are_told_apart(text: str, lang: str) -> None:
    assert identify(text).lang == lang


def test_a_text_s_answer_does_not_depend_on_its_batch() -> None:
    texts = [
        "All human beings are born free and equal.",
        "",
        "Jeg vet ikke hva de sier.",
        "\ud800 x",
        "&1",
        "Alle Menschen sind frei und gleich geboren.",
    ] * 2
    langs, scores = identify_all(texts)
    assert [identify(text) for text in texts] == [Identified(lang, score) for lang, score in zip(langs, scores, strict=True)]
    assert identify_all([]) == ([], [])


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=()), max_size=40))
def test_any_string_gets_an_answer_in_range(text: str) -> None:
    found = identify(text)
    assert 0 <= found.score <= 10_000
    assert found.lang == UNDETERMINED or lookup(found.lang).code == found.lang


@pytest.mark.parametrize("text", ["", " \n", "123 !? 😀", "\0\x01\ud800\ufffe"])
def test_text_without_letters_is_undetermined(text: str) -> None:
    assert identify(text).lang == UNDETERMINED and identify(text).score == 0


def test_control_characters_do_not_hide_the_language() -> None:
    assert identify("All human beings\x01 are born free\ud800 and equal in dignity.\0").lang == "en"


def test_supported_languages_are_canonical_and_hold_xlmr_but_not_what_no_model_knows() -> None:
    assert supported() <= {language.code for language in known()}
    assert set(NAMED_SETS["xlmr"]) <= supported()
    assert not {"zgh", "ace-Arab", "taq-Tfng", "und"} & supported()


def test_varieties_and_scripts_of_one_language_agree_and_different_languages_do_not() -> None:
    alike = [("sr-Latn", "sr"), ("zh-Hant", "zh-Hans"), ("arz", "ar"), ("yue", "zh-Hant"), ("en", "en"), ("bs", "hr")]
    unlike = [("en", "de"), ("nb", "nn"), ("und", "und"), ("de", "und")]
    assert all(agrees(one, other) and agrees(other, one) for one, other in alike)
    assert not any(agrees(one, other) or agrees(other, one) for one, other in unlike)


def test_xlmr_languages_are_recognised_on_real_sentences_in_the_mean_over_languages(data: Path) -> None:
    shares = []
    for path in sorted((data / "sib200").glob("*/train.tsv")):
        code = lookup(path.parent.name).code
        if code in NAMED_SETS["xlmr"]:
            langs, _ = identify_all([line.split("\t")[2] for line in path.read_text(encoding="utf-8").split("\n")[1:101]])
            shares.append(sum(lang == code for lang in langs) / len(langs))
    assert len(shares) > 80 and sum(shares) / len(shares) >= 0.98
