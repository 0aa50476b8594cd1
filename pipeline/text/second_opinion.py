"""The second opinion on a text, where pycld2 is not to be believed alone: the letters and words of close relatives (`twins`), and py3langid (`bayes`).

    pycld2 took the texts for one of a close family -> `of_family`
    it found several languages in them ------------> `of_mixed`
    it is not sure of itself -----------------------> `of_unreliable`

`identify` draws the way as a whole. All take batches, as each call of compiled code has its price; what each text is does not depend on the others. The models take
half a second and 70 MB: this module is imported where the first such text is met.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pycld2

from pipeline.text import bayes
from pipeline.text.labels import UNDETERMINED, canonical
from pipeline.text.twins import by_words, chinese

Opinions = tuple[list[str], list[int]]
"""Language and score of each text."""

# py3langid's labels of a family, by what pycld2 took the text for.
_SOUTH_SLAVIC_LABELS = ("bs", "hr", "sr")
_FAMILIES = {
    **dict.fromkeys(("nb", "nn"), ("no", "nn", "da")),
    "hi": ("hi", "mr", "ne", "sa"),
    "sr": ("sr", "mk", "bg", "ru", "be", "uk"),
}
_MALAY = frozenset({"id", "ms"})
_CHINESE = frozenset({"zh-Hans", "zh-Hant"})
_SOUTH_SLAVIC = frozenset({"bs", "cnr", "hr", "sr"})
_TOLD_AT_SIGHT = _CHINESE | _MALAY | _SOUTH_SLAVIC

_SERBIAN = re.compile(r"[\u0452\u045b\u0402\u040b]|\b(?:је|су|у)\b")
_VISARGA = "\u0903"
_HAS_LETTER = re.compile(r"[^\W\d_]")
# Sindhi, Sundanese and Yiddish are known to pycld2 alone; a text in one of them is taken by py3langid, and not surely, for one of these.
_PYCLD2_ALONE = frozenset({"sd", "su", "yi"})
_NEIGHBOURS = frozenset(["ar", "ary", "arz", "fa", "ps", "sdh", "ug", "ur", "ace", "id", "jv", "ms", "tl", "he", "hbo"])
_SURE = 9_000
_COIN = 5_000
_HEAD = 2_000
"""Characters of a text that are enough to tell the members of a family apart."""


def of_family(lang: str, shares: Sequence[int], texts: Sequence[str]) -> Opinions:
    """Texts all of which pycld2 took for the same member of a family, with its shares of them in 1/10,000."""
    seen, scores = _at_sight(lang, texts), list(shares)
    langs = [each or lang for each in seen]
    asked: dict[tuple[str, ...], list[int]] = {}
    for at, each in enumerate(seen):
        if each is None:
            if lang in _MALAY:
                scores[at] = _COIN
            else:
                south = lang in _SOUTH_SLAVIC and (lang != "sr" or _is_latin(texts[at]))
                asked.setdefault(_SOUTH_SLAVIC_LABELS if south else _FAMILIES[lang], []).append(at)
    for labels, places in asked.items():
        seconds, probabilities = bayes.classify([texts[at][:_HEAD] for at in places], labels)
        for at, label, probability in zip(places, seconds, probabilities, strict=True):
            second = None if label is None else canonical(label)
            if second is not None:
                langs[at] = _serbian(second, texts[at])
                scores[at] = min(scores[at], probability)
    return langs, scores


def of_mixed(details: Sequence[Any], texts: Sequence[str]) -> Opinions:
    """Texts with pycld2's details, of which the first names a language, but not for most of the text."""
    langs, scores = [], []
    for text, listed, label, probability in zip(texts, details, *bayes.classify(texts), strict=True):
        shares = {canonical(each): 100 * int(percent) for _, each, percent, _ in reversed(listed)}
        lang = str(canonical(listed[0][1]))
        score = shares[lang]
        second = None if label is None else canonical(label)
        if second is not None and second in shares:
            lang, score = second, min(shares[second], probability)
        langs.append((chinese([text])[0] or lang) if lang in _CHINESE else lang)
        scores.append(score)
    return langs, scores


def of_unreliable(texts: Sequence[str]) -> Opinions:
    """Texts of which pycld2 is not sure; `und` where a text has no letter or neither model names a language."""
    langs, scores = [UNDETERMINED] * len(texts), [0] * len(texts)
    relatives: dict[str, list[int]] = {}
    for at, (label, probability) in enumerate(zip(*bayes.classify(texts), strict=True)):
        if _HAS_LETTER.search(texts[at]) is None:
            continue
        if probability < _SURE and (label is None or label in _NEIGHBOURS):
            guess, share = _guess(texts[at])
            if guess in _PYCLD2_ALONE:
                langs[at], scores[at] = guess, min(_COIN, share)
                continue
        second = None if label is None else canonical(label)
        if second is not None:
            langs[at], scores[at] = second, probability
            if second in _TOLD_AT_SIGHT:
                relatives.setdefault(second, []).append(at)
    for lang, places in relatives.items():
        for at, seen in zip(places, _at_sight(lang, [texts[at] for at in places]), strict=True):
            langs[at] = seen or _serbian(lang, texts[at])
    return langs, scores


def _at_sight(lang: str, texts: Sequence[str]) -> list[str | None]:
    """The member of its family that each text is in, where its letters or words say so; None where they do not."""
    if lang in _CHINESE:
        return [each or lang for each in chinese(texts)]
    if lang in _MALAY:
        return by_words("id", texts)
    if lang == "hi":
        return [None if _VISARGA in text else lang for text in texts]
    if lang == "sr":
        found = [None if _is_latin(text) or _SERBIAN.search(text) is None else lang for text in texts]
        latin = [at for at, text in enumerate(texts) if _is_latin(text)]
        for at, seen in zip(latin, by_words("bs", [texts[at] for at in latin]), strict=True):
            found[at] = seen
        return found
    return by_words("bs", texts) if lang in _SOUTH_SLAVIC else [None] * len(texts)


def _is_latin(text: str) -> bool:
    """Whether a South Slavic text is in Latin rather than Cyrillic letters, which take two bytes each."""
    head = text[:_HEAD]
    return 2 * len(head.encode("utf-8", "surrogatepass")) < 3 * len(head)


def _serbian(lang: str, text: str) -> str:
    """`sr` by the letters of the text; any other code as it is."""
    return "sr-Latn" if lang == "sr" and _is_latin(text) else lang


def _guess(text: str) -> tuple[str | None, int]:
    """pycld2's language and percentage in 1/10,000 where it is told to guess."""
    try:
        _, _, details = pycld2.detect(text, True, bestEffort=True)
    except pycld2.error:
        return None, 0
    return canonical(details[0][1]), 100 * int(details[0][2])
