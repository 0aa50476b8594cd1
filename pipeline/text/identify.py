"""Which language a text is in: pycld2 where it is sure, else py3langid (`bayes`), and for close relatives their letters and words (`twins`).

    text -> pycld2: reliable, at least 80% of the text, and no language of a close family? -- yes --> its language, its percentage of the text
         -> Chinese ---------------------------------> simplified or traditional by characters
            Indonesian, Malay -----------------------> their words, else pycld2
            Bosnian, Croatian, Latin Serbian --------> their words, else py3langid among the three
            Norwegian -------------------------------> py3langid among Bokmål, Nynorsk and Danish
            Serbian without its own letters or words -> py3langid among the Slavic languages written in Cyrillic
            Hindi with a visarga --------------------> py3langid among Hindi, Marathi, Nepali and Sanskrit
            mixed (below 80%) -----------------------> py3langid where pycld2 lists its language too, else pycld2
            not reliable ----------------------------> py3langid; pycld2 for Sindhi, Sundanese and Yiddish, which py3langid does not know
         -> canonical code (`languages.lookup`), score in 1/10,000

The score is pycld2's percentage of the text, py3langid's probability, or the smaller of the two where both were asked; a choice between twins that only a coin could
make is given at most 5,000. Both models come in wheels, work offline and give the same answer on every machine. `python -m tests.benchmarks.identify`
states accuracy, by language, and speed beside bare pycld2.

A model that lumps varieties together must not condemn the finer label: compare with `agrees`, and only for languages in `supported()`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import pycld2

from pipeline.errors import ConfigError
from pipeline.text.languages import lookup
from pipeline.text.twins import by_words, chinese

UNDETERMINED = "und"

_LANGID = (
    "af am ar as az be bg bn br bs ca cs cy da de el en eo es et eu fa fi fr fy ga gd gl gu ha he hi hr ht hu hy id ig is it ja jv ka kk km kn ko ku ky la lg ln lo "
    "lt lv mg mk ml mn mr ms my ne nl no om or pa pl ps pt qu ro ru sa si sk sl so sq sr sv sw ta te th tl tr ug uk ur uz vi xh yo zh zu zxx ace bcl dz ext gcf gom "
    "grc gug hbo kik nso pcm rw se sn st an ary crh fo fuv gcr guw kab lb lij ltg uzs wa sdh arz ba mt nn oc tg tk tt vec vo wuu yue"
)
LANGID_LABELS = tuple(_LANGID.split())
"""What py3langid can answer; written here so that a reader of answers need not load the model."""

_HAS_LETTER = re.compile(r"[^\W\d_]")
# What pycld2 raises on, as far as it can be listed; private use and unassigned characters are more, and then py3langid alone is asked.
_REJECTED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufeff\ufffe\uffff\U0001fffe\U0001ffff]+")
_PYCLD2_OWN_CODES = {"sr-ME": "cnr", "tlh": None, "xxx": None, "un": None, "zxx": None}
# Varieties that a model gives under another's name: variety -> what it is then called.
_CALLED = {
    **dict.fromkeys(("acm", "acq", "aeb", "ajp", "apc", "ars", "ary", "arz", "mey"), "ar"),
    **dict.fromkeys(("bs", "cnr", "hr", "sh"), "sr"),
    **dict.fromkeys(("cdo", "cjy", "gan", "hak", "hsn", "lzh", "nan", "wuu", "yue"), "zh"),
    **dict.fromkeys(("fat", "tw"), "ak"),
    **dict.fromkeys(("fuc", "fuf"), "ff"),
    **dict.fromkeys(("quh", "quz", "qud", "qul", "qug", "qxn", "qvm", "qvh", "qwh", "qxu", "qva", "qvn", "qvc"), "qu"),
    "azb": "az",
    "gom": "kok",
    "hnj": "hmn",
    "prs": "fa",
    "uzs": "uz",
}
# Named by a model, yet no ground to drop a text on: crh ks rn sg were taken for tr ur rw ln on more than half of 40 SIB-200
# sentences, ia nr pcm sco for it zu en en on the whole Declaration of Human Rights.
_UNRELIABLE = frozenset({"crh", "ia", "ks", "nr", "pcm", "rn", "sco", "sg"})

MIN_PERCENT = 80
"""Share of a text that pycld2 must give to one language to be believed without a second opinion."""
# py3langid's labels of a family, by what pycld2 took the text for.
_FAMILIES = {
    **dict.fromkeys(("nb", "nn"), ("no", "nn", "da")),
    "hi": ("hi", "mr", "ne", "sa"),
    **dict.fromkeys(("bs", "cnr", "hr"), ("bs", "hr", "sr")),
    "sr": ("sr", "mk", "bg", "ru", "be", "uk"),
}
_SERBIAN = re.compile(r"[\u0452\u045b\u0402\u040b]|\b(?:је|су|у)\b")
_VISARGA = "\u0903"
_SOUTH_SLAVIC = frozenset({"bs", "cnr", "hr", "sr"})
_MALAY = frozenset({"id", "ms"})
_CHINESE = frozenset({"zh-Hans", "zh-Hant"})
_FAMILIAR = _CHINESE | _MALAY | _SOUTH_SLAVIC
_PYCLD2_ALONE = frozenset({"sd", "su", "yi"})
_COIN = 5_000
_HEAD = 2_000
"""Characters of a text that are enough to tell the members of a family apart."""

Found = tuple[list[str], list[int]]
"""Canonical code or `und`, and score in 1/10,000, of each text of a batch."""


@dataclass(frozen=True, slots=True)
class Identified:
    """What a text's language was taken for."""

    lang: str
    """Canonical code, or `und`."""
    score: int
    """0 to 10,000; see the module."""


@cache
def _canonical(label: str) -> str | None:
    """A model's label as our code; None where it names no language."""
    label = _PYCLD2_OWN_CODES.get(label, label) or "xx-"
    if label.startswith(("xx-", "zz", "zxx")):
        return None
    try:
        return lookup(label).code
    except ConfigError:
        return None


@cache
def _plain() -> dict[str, str]:
    """The labels of pycld2 that need no second opinion, with their codes."""
    known = {label: _canonical(label) for _, label in _pycld2_languages()}
    doubted = _FAMILIES.keys() | _MALAY | _CHINESE
    return {label: code for label, code in known.items() if code is not None and code not in doubted}


def identify(text: str) -> Identified:
    """The language of a text; `und` with score 0 where it has no letter or neither model names a language we know. For many texts `identify_all` is faster."""
    (lang,), (score,) = identify_all([text])
    return Identified(lang, score)


def identify_all(texts: Sequence[str]) -> Found:
    """The language and score of each text; what each is does not depend on the others."""
    plain = _plain()
    detect = pycld2.detect
    langs = [UNDETERMINED] * len(texts)
    scores = [0] * len(texts)
    doubtful: list[_Doubt] = []
    for at, text in enumerate(texts):
        try:
            reliable, _, details = detect(text, True)
        except (pycld2.error, UnicodeEncodeError):
            text, reliable, details = _again(text)
        if reliable:
            _, label, percent, _ = details[0]
            if percent >= MIN_PERCENT:
                lang = plain.get(label)
                if lang is None:
                    lang = _at_sight(_canonical(label), text)
                if lang is not None:
                    langs[at] = lang
                    scores[at] = 100 * percent
                    continue
        doubtful.append(_Doubt(at, text, reliable, details))
    if doubtful:
        _second_opinions(doubtful, langs, scores)
    return langs, scores


def _at_sight(lang: str | None, text: str) -> str | None:
    """The member of its family that a text is in, where its letters or words say so; None where they do not."""
    if lang in _CHINESE:
        return chinese(text) or lang
    if lang in _MALAY:
        return by_words("id", text)
    if lang in _SOUTH_SLAVIC:
        if lang != "sr" or _is_latin(text):
            return by_words("bs", text)
        return "sr" if _SERBIAN.search(text) else None
    if lang == "hi":
        return None if _VISARGA in text else lang
    return None


def _is_latin(text: str) -> bool:
    """Whether a South Slavic text is in Latin rather than Cyrillic letters, which take two bytes each."""
    head = text[:_HEAD]
    return 2 * len(head.encode("utf-8", "surrogatepass")) < 3 * len(head)


def _again(text: str) -> tuple[str, bool, Any]:
    """pycld2's second try, without what it rejects."""
    text = _REJECTED.sub(" ", text)
    try:
        reliable, _, details = pycld2.detect(text, True)
    except pycld2.error:  # it still takes the text for no UTF-8; py3langid takes any
        return text, False, ()
    return text, reliable, details


@dataclass(slots=True)
class _Doubt:
    """A text on which pycld2 is not to be believed without more."""

    at: int
    text: str
    reliable: bool
    details: Any

    def first(self) -> tuple[str | None, int]:
        """pycld2's best language and its percentage; None where it is not sure."""
        return (_canonical(self.details[0][1]), int(self.details[0][2])) if self.reliable else (None, 0)


def _second_opinions(doubts: Sequence[_Doubt], langs: list[str], scores: list[int]) -> None:
    """Fill in what becomes of the doubtful texts; py3langid is asked once for all of a family."""
    asked: dict[tuple[str, ...] | None, list[_Doubt]] = {}
    for doubt in doubts:
        lang, percent = doubt.first()
        if lang is None and _HAS_LETTER.search(doubt.text) is None:
            continue
        if percent < MIN_PERCENT:
            asked.setdefault(None, []).append(doubt)
        elif lang in _MALAY:
            langs[doubt.at], scores[doubt.at] = str(lang), _COIN
        else:
            family = "hr" if lang == "sr" and _is_latin(doubt.text) else str(lang)
            asked.setdefault(_FAMILIES.get(family), []).append(doubt)
    if not asked:
        return
    from pipeline.text import bayes  # its model takes half a second and 70 MB: only where it is needed

    for family_labels, of_family in asked.items():
        head = None if family_labels is None else _HEAD
        answers = zip(*bayes.classify([doubt.text[:head] for doubt in of_family], family_labels), strict=True)
        for doubt, (label, probability) in zip(of_family, answers, strict=True):
            langs[doubt.at], scores[doubt.at] = _settle(doubt, None if label is None else _canonical(label), probability)


def _settle(doubt: _Doubt, second: str | None, probability: int) -> tuple[str, int]:
    """The answer of both models together, once py3langid has been asked."""
    lang, percent = doubt.first()
    share = 100 * percent
    if lang is None:
        return _unreliable(doubt, second, probability)
    if second is None:
        return lang, share
    if percent < MIN_PERCENT:
        listed = {_canonical(label): 100 * int(part) for _, label, part, _ in reversed(doubt.details)}
        lang, share = (second, min(listed[second], probability)) if second in listed else (lang, share)
        return (chinese(doubt.text) or lang, share) if lang in _CHINESE else (lang, share)
    return _serbian(second, doubt.text), min(share, probability)


def _unreliable(doubt: _Doubt, second: str | None, probability: int) -> tuple[str, int]:
    """The answer where pycld2 is not sure of itself."""
    if probability < 9_000:
        guess, share = _guess(doubt.text)
        if guess in _PYCLD2_ALONE:
            return str(guess), min(_COIN, share)
    if second is None:
        return UNDETERMINED, 0
    seen = _at_sight(second, doubt.text) if second in _FAMILIAR else None
    return seen or _serbian(second, doubt.text), probability


def _serbian(lang: str, text: str) -> str:
    """`sr` by the letters of the text; any other code as it is."""
    return "sr-Latn" if lang == "sr" and _is_latin(text) else lang


def _guess(text: str) -> tuple[str | None, int]:
    """pycld2's language and percentage where it is told to guess."""
    try:
        _, _, details = pycld2.detect(text, True, bestEffort=True)
    except pycld2.error:
        return None, 0
    return _canonical(details[0][1]), 100 * int(details[0][2])


@cache
def supported() -> frozenset[str]:
    """Canonical codes that either model can name and tell from their neighbours; a text in any other language cannot be checked."""
    codes = dict(_pycld2_languages())
    labels = [codes[name] for name in pycld2.DETECTED_LANGUAGES if name in codes] + list(LANGID_LABELS)
    named = {code for code in map(_canonical, labels) if code is not None}
    return frozenset((named | {"zh-Hans", "zh-Hant", "sr-Latn"}) - _UNRELIABLE)


def _pycld2_languages() -> tuple[tuple[str, str], ...]:
    languages: Any = pycld2.LANGUAGES
    return tuple((str(name), str(code)) for name, code in languages)


def agrees(declared: str, found: str) -> bool:
    """Whether a text declared as one code may carry on when it was identified as the other.

    True for the same language in whatever script (`sr`, `sr-Latn`; `zh-Hans`, `zh-Hant`) and for a variety that the models
    know under a wider name or take for its twin (`arz` and `ar`, `yue` and `zh`, `bs` and `hr`). `und` agrees with nothing.
    """
    if UNDETERMINED in (declared, found):
        return False
    return _wide(declared) == _wide(found)


def _wide(code: str) -> str:
    base = code.split("-")[0]
    return _CALLED.get(base, base)
