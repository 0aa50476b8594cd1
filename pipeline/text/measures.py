"""What the quality rules look at: counts and shares of normalised texts, all whole numbers, a batch at a time (`kernels`).

Definitions follow Gopher (Rae et al. 2021, appendix A.1.1 and table A1), C4 (Raffel et al. 2020) and FineWeb (Penedo et al. 2024), with these departures. In
scripts without spaces words are estimated from letters (marks not counted): a word is 5/3 of Han or Kana, 3 of Thai or Lao, 3.3 of Khmer, 2.4 of Burmese, 5 of Tibetan; word-by-word shares
are taken over that estimate; an n-gram of words is one of 2n (Han, Kana) or 4n characters. Beside ICU 77's dictionaries on NTREX-128 and the Declaration of Human Rights the sum of
words is off by −5% to 1% for Chinese, 7% to 10% for Japanese, 0% to 3% for Thai, ±8% for Lao, and in the Declaration −3% for Khmer and −2% for Burmese; for Tibetan ICU has no words but syllables,
of which a word then has 1.6.
Letters count with their combining marks. Shares are in 1/10,000: rounded up where a rule sets a maximum and down where it sets a minimum, so that a comparison with
a bound in 1/10,000 gives what exact fractions give.

characters                 code points
words                      words, estimated in scripts without spaces
non_symbol_words           words with a character that is neither punctuation nor symbol
lines                      lines that are not empty
sentences                  ends of sentences, of any script
curly_brackets             of the opening kind (C4)
stop_words                 distinct stop words of its language that are there; -1 where none are listed
duplicate_line_share       lines that stood before in the text, of all lines                                                  up
duplicate_line_characters_share         their characters, of all characters of the text                                       up
duplicate_paragraph_share, …_characters_share     the same for paragraphs, which an empty line parts                           up
top_2gram_share … top_4gram_share       characters of all occurrences of the most frequent n-gram (of equals the first), of all characters      up
duplicate_5gram_share … 10gram_share    characters of n-grams that stood before, none counted twice, of all characters        up
letters_share              letters and combining marks, of characters that are no white space                                 down
digits_share               decimal digits of any script, of the same                                                          up
script_share               letters of the script of its language, of all letters; -1 where the script is not known            down
words_with_letters_share   words with a letter, of all words                                                                  down
symbol_word_ratio          number signs or ellipses, whichever are more, per word                                             up
mean_word_length           characters of the non-symbol words, 1/10,000 a word                                                down
longest_word               characters; in scripts without spaces, of the longest run of another script
bullet_line_share, ellipsis_line_share  lines that begin with • or -, that end in … or ...                                    up
short_line_share           lines of at most 30 characters                                                                     up
punctuated_line_share      lines that end in a sentence's end, of any script                                                  down
newline_word_ratio         line feeds per word                                                                                up
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from pipeline.artifacts.documents import MEASURES
from pipeline.errors import ConfigError
from pipeline.text import kernels, tables
from pipeline.text.languages import Language, lookup

SCALE = 10_000
_INT32_MAX = 2**31 - 1
Measured = dict[str, np.ndarray[Any, np.dtype[np.int64]]]


class Measurer:
    """Measures batches; made once a process and set of stop words."""

    def __init__(self, stop_words: Mapping[str, Sequence[str]] | None = None) -> None:
        self._stop_rows: dict[str, int] = {}
        hashes: list[Any] = []
        starts = [0]
        for number, (lang, words) in enumerate(sorted((stop_words or {}).items())):
            self._stop_rows[lang] = number
            hashes += [kernels.word_hash(np.frombuffer(word.encode(), np.uint8)) for word in sorted(set(words))]
            starts.append(len(hashes))
        self._stops = np.array(hashes, np.uint64)
        self._stop_offsets = np.array(starts, np.int64)

    def measure(
        self, data: np.ndarray[Any, np.dtype[np.uint8]], offsets: np.ndarray[Any, np.dtype[np.int64]], langs: Sequence[str]
    ) -> Measured:
        """Measure a batch of normalised texts.

        Args:
            data: UTF-8 of all texts, one behind the other.
            offsets: where each begins, and where the last ends, shape (texts + 1,).
            langs: canonical code of each, or `und`, which is measured as a spaced language of unknown script.

        Returns:
            name of a measure -> int64, shape (texts,); every figure of an empty text is 0 (-1 where there is nothing to measure against).
        """
        codes, rows = (
            np.unique(np.asarray(langs, dtype=object).astype(str), return_inverse=True)
            if len(langs)
            else (np.zeros(0, str), np.zeros(0, np.int64))
        )
        spaced = np.array([_is_spaced(str(code)) for code in codes] or [True], np.bool_)
        script_rows, wanted = _scripts()
        scripts = np.array([script_rows.get(_script(str(code)), -1) for code in codes] or [-1], np.int64)
        stop_rows = np.array([self._stop_rows.get(str(code), -1) for code in codes] or [-1], np.int64)
        found = kernels.measure_batch(
            data, offsets, spaced[rows], scripts[rows], stop_rows[rows], tables.classes(), tables.script_ids()[0], wanted, self._stops, self._stop_offsets
        )  # fmt: skip
        np.minimum(found, _INT32_MAX, out=found)
        return {name: found[:, column] for column, name in enumerate(MEASURES)}


def measure(text: str, lang: str, stop_words: Mapping[str, Sequence[str]] | None = None) -> dict[str, int]:
    """The measures of one text; for many, `Measurer` is faster."""
    data = np.frombuffer(text.encode(), np.uint8)
    found = Measurer(stop_words).measure(data, np.array([0, len(data)], np.int64), [lang])
    return {name: int(column[0]) for name, column in found.items()}


@cache
def _language(code: str) -> Language | None:
    try:
        return lookup(code)
    except ConfigError:
        return None


def _is_spaced(code: str) -> bool:
    language = _language(code)
    return language is None or language.spaced


def _script(code: str) -> str:
    language = _language(code)
    return "" if language is None else language.script


@cache
def _scripts() -> tuple[dict[str, int], np.ndarray[Any, np.dtype[np.bool_]]]:
    """Row of each known script, and which script indices belong to it, shape (scripts, 256)."""
    rows = {code: number for number, code in enumerate(tables.known_scripts())}
    wanted = np.zeros((len(rows), 256), np.bool_)
    for code, number in rows.items():
        wanted[number, list(tables.scripts_of(code))] = True
    return rows, wanted
