"""Measures for the quality rules: figures counted by hand, a slow reference, other scripts."""

import re
import unicodedata
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.artifacts.documents import MEASURES
from pipeline.text.measures import measure
from pipeline.text.normalise import normalise

STOP = {"en": ("the", "of", "and")}
WORDS = st.lists(st.sampled_from(["the", "of", "cat", "sat", "naïve", "12", "…", "#", "नमस्ते", "!", "a-b", "ok.", "-", "•"]), max_size=40)
TEXT = st.lists(WORDS.map(" ".join), max_size=8).flatmap(
    lambda lines: st.sampled_from(["\n", "\n\n"]).map(lambda end: normalise(end.join(lines)))
)


def _up(part: int, whole: int) -> int:
    return -(-part * 10_000 // whole) if whole else 0


def _repeats(elements: list[str]) -> tuple[int, int]:
    seen: set[str] = set()
    again = [element for element in elements if element in seen or seen.add(element)]  # type: ignore[func-returns-value]
    return len(again), sum(map(len, again))


def _reference(text: str) -> dict[str, int]:
    """Gopher's figures as plain Python has them, after the definitions of the paper."""
    words, lines = text.split(), [line for line in text.split("\n") if line]
    paragraphs = [part for part in re.split(r"\n{2,}", text.strip()) if part]
    solid = [character for word in words for character in word]
    worded = [word for word in words if any(unicodedata.category(character)[0] not in "PSC" for character in word)]
    found = {
        "characters": len(text), "words": len(words), "non_symbol_words": len(worded), "lines": len(lines),
        "duplicate_line_share": _up(_repeats(lines)[0], len(lines)), "duplicate_line_characters_share": _up(_repeats(lines)[1], len(text)),
        "duplicate_paragraph_share": _up(_repeats(paragraphs)[0], len(paragraphs)),
        "duplicate_paragraph_characters_share": _up(_repeats(paragraphs)[1], len(text)),
        "letters_share": sum(unicodedata.category(c)[0] in "LM" for c in solid) * 10_000 // len(solid) if solid else 0,
        "words_with_letters_share": sum(any(map(str.isalpha, word)) for word in words) * 10_000 // len(words) if words else 0,
        "symbol_word_ratio": _up(max(text.count("#"), text.count("…") + text.count("...")), len(words)),
        "mean_word_length": sum(map(len, worded)) * 10_000 // len(worded) if worded else 0,
        "bullet_line_share": _up(sum(line.startswith(("•", "-")) for line in lines), len(lines)),
        "ellipsis_line_share": _up(sum(line.endswith(("…", "...")) for line in lines), len(lines)),
        "short_line_share": _up(sum(len(line) <= 30 for line in lines), len(lines)), "newline_word_ratio": _up(text.count("\n"), len(words)),
        "stop_words": len(set(words) & set(STOP["en"])), "longest_word": max(map(len, words), default=0), "curly_brackets": text.count("{"),
    }  # fmt: skip
    for n in range(2, 5):
        grams = [" ".join(words[i : i + n]) for i in range(len(words) - n + 1)]
        top = Counter(grams).most_common(1)
        found[f"top_{n}gram_share"] = _up(len(top[0][0]) * top[0][1], len(text)) if top else 0
    for n in range(5, 11):
        seen: set[str] = set()
        again = at = 0
        while at < len(words) - n + 1:
            gram = "".join(words[at : at + n])
            again, step = (again + len(gram), n) if gram in seen else (again, 1)
            seen.add(gram)
            at += step
        found[f"duplicate_{n}gram_share"] = _up(again, len(text))
    return found


def test_a_small_text_has_the_figures_counted_by_hand() -> None:
    found = measure("a b a b\na b a b\n#x 12 …", "en")
    assert (found["characters"], found["words"], found["lines"]) == (23, 11, 3)
    assert found["duplicate_line_share"] == 3_334 and found["duplicate_line_characters_share"] == _up(7, 23)
    assert found["top_2gram_share"] == _up(4 * 3, 23)  # "a b" four times, three characters each
    assert found["letters_share"] == 9 * 10_000 // 13 and found["digits_share"] == _up(2, 13)
    assert found["symbol_word_ratio"] == _up(1, 11) and found["non_symbol_words"] == 10


@settings(deadline=None, max_examples=200)
@given(TEXT)
def test_the_compiled_figures_are_those_of_plain_python(text: str) -> None:
    found, wanted = measure(text, "en", STOP), _reference(text)
    assert {name: found[name] for name in wanted} == wanted


@settings(deadline=None, max_examples=100)
@given(st.text(max_size=80).map(normalise), st.sampled_from(["en", "zh-Hans", "th", "und", "ar"]))
def test_every_figure_of_any_text_is_a_whole_number_in_its_range(text: str, lang: str) -> None:
    found = measure(text, lang)
    assert tuple(found) == MEASURES
    assert all(value >= 0 for name, value in found.items() if name not in ("script_share", "stop_words"))
    assert all(value <= 10_000 for name, value in found.items() if name.endswith("_share") and not name.startswith("top_"))
    if not text:
        assert set(found.values()) <= {0, -1}


def test_words_are_estimated_where_nothing_parts_them() -> None:
    assert measure("我们的语言", "zh-Hans")["words"] == 3
    assert measure("สวัสดีครับ", "th")["words"] == 2  # seven letters, three marks
    assert measure("我们 say hello !", "zh-Hans")["words"] == 3
    assert measure("ሰላም፡ለዓለም", "am")["words"] == 2


@pytest.mark.parametrize("lang", ["th", "lo", "km", "my", "zh-Hans", "zh-Hant", "ja"])
def test_estimated_words_are_near_those_of_a_dictionary(lang: str) -> None:
    """Paragraphs of the Declaration of Human Rights with the number of words that ICU 77 finds in each."""
    lines = [line.split("\t") for line in (Path(__file__).parent / "segmented.tsv").read_text(encoding="utf-8").splitlines()[1:]]
    mine = [(int(words), text) for code, words, text in lines if code == lang]
    segmented = sum(words for words, _ in mine)
    assert segmented > 150
    assert abs(sum(measure(text, lang)["words"] for _, text in mine) / segmented - 1) < 0.12


def test_a_tibetan_word_is_of_one_or_two_syllables() -> None:
    lines = [line.split("\t") for line in (Path(__file__).parent / "segmented.tsv").read_text(encoding="utf-8").splitlines()[1:]]
    syllables = sum(int(count) for code, count, _ in lines if code == "bo")
    assert 1.4 < syllables / sum(measure(text, "bo")["words"] for code, _, text in lines if code == "bo") < 1.8


def test_repetition_is_seen_in_scripts_without_spaces() -> None:
    assert measure("我们的语言" * 10, "zh-Hans")["top_2gram_share"] > 5_000
    assert measure("人人生而自由在尊严和权利上一律平等" * 3, "zh-Hans")["duplicate_5gram_share"] > 5_000
    assert measure("人人生而自由在尊严和权利上一律平等", "zh-Hans")["duplicate_5gram_share"] == 0
    assert measure("ทุกคนเกิดมามีอิสระและเสมอภาคกันในศักดิ์ศรีและสิทธิ" * 3, "th")["duplicate_5gram_share"] >= 5_000


def test_combining_marks_are_part_of_letters_and_joiners_part_no_word() -> None:
    assert measure("नमस्ते दुनिया", "hi")["letters_share"] == 10_000
    assert measure("می\u200cخواهم", "fa")["words"] == 1


def test_letters_of_another_script_are_counted_against_the_language() -> None:
    assert measure("Привет мир", "ru")["script_share"] == 10_000
    assert measure("Привет abcdef", "ru")["script_share"] == 5_000
    assert measure("日本語のテキスト", "ja")["script_share"] == 10_000
    assert measure("123", "ru")["script_share"] == -1
