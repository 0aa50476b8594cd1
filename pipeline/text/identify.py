"""Which language a text is in: pycld2 where it is sure, else py3langid (`bayes`), and for close relatives their letters and words (`twins`).

    text -> pycld2: reliable, at least 80% of the text, and no language of a close family? -- yes --> its language, its percentage of the text
         -> Chinese ---------------------------------> simplified or traditional by characters
            Indonesian, Malay -----------------------> their words, else pycld2
            Bosnian, Croatian, Latin Serbian --------> their words, else py3langid among the three
            Norwegian -------------------------------> py3langid among Bokmål, Nynorsk and Danish
            Serbian without its own letters or words -> py3langid among the Slavic languages written in Cyrillic
            Hindi with a visarga --------------------> py3langid among Hindi, Marathi, Nepali and Sanskrit
            mixed (below 80%) -----------------------> py3langid where pycld2 lists its language too, else pycld2
            not reliable ----------------------------> py3langid; pycld2 for Sindhi, Sundanese and Yiddish, where py3langid, which does not know them, names a neighbour of theirs
         -> canonical code (`languages.lookup`), score in 1/10,000

The score is pycld2's percentage of the text, py3langid's probability, or the smaller of the two where both were asked; a choice between twins that only a coin could
make is given at most 5,000. Both models come in wheels, work offline and give the same answer on every machine. `python -m tests.benchmarks.identify`
states accuracy, by language, and speed beside bare pycld2. What follows the first answer is in `second_opinion`.

A model that lumps varieties together must not condemn the finer label: compare with `agrees`, and only for languages in `supported()`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import pycld2

from pipeline.text.labels import UNDETERMINED as UNDETERMINED
from pipeline.text.labels import canonical

_LANGID = (
    "af am ar as az be bg bn br bs ca cs cy da de el en eo es et eu fa fi fr fy ga gd gl gu ha he hi hr ht hu hy id ig is it ja jv ka kk km kn ko ku ky la lg ln lo "
    "lt lv mg mk ml mn mr ms my ne nl no om or pa pl ps pt qu ro ru sa si sk sl so sq sr sv sw ta te th tl tr ug uk ur uz vi xh yo zh zu zxx ace bcl dz ext gcf gom "
    "grc gug hbo kik nso pcm rw se sn st an ary crh fo fuv gcr guw kab lb lij ltg uzs wa sdh arz ba mt nn oc tg tk tt vec vo wuu yue"
)
LANGID_LABELS = tuple(_LANGID.split())
"""What py3langid can answer; written here so that a reader of answers need not load the model."""

# What pycld2 raises on, as far as it can be listed; private use and unassigned characters are more, and then py3langid alone is asked.
_REJECTED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufeff\ufffe\uffff\U0001fffe\U0001ffff]+")
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
_FAMILIAR = frozenset(["nb", "nn", "hi", "bs", "cnr", "hr", "sr", "id", "ms", "zh-Hans", "zh-Hant"])
"""Languages that pycld2 takes for one another; `second_opinion` tells them apart."""

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
def _plain() -> dict[str, str]:
    """The labels of pycld2 that need no second opinion, with their codes."""
    known = {label: canonical(label) for _, label in _pycld2_languages()}
    return {label: code for label, code in known.items() if code is not None and code not in _FAMILIAR}


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
    repaired: dict[int, str] = {}
    related: dict[str, list[int]] = {}
    mixed: dict[int, Any] = {}
    unreliable: list[int] = []
    for at, text in enumerate(texts):
        try:
            reliable, _, details = detect(text, True)
        except (pycld2.error, UnicodeEncodeError):
            repaired[at], reliable, details = _again(text)
        if reliable:
            _, label, percent, _ = details[0]
            if percent >= MIN_PERCENT:
                scores[at] = 100 * percent
                if label in plain:
                    langs[at] = plain[label]
                else:
                    related.setdefault(label, []).append(at)
            else:
                mixed[at] = details
        else:
            unreliable.append(at)
    if related or mixed or unreliable:
        _second_opinions(texts, repaired, related, mixed, unreliable, langs, scores)
    return langs, scores


def _second_opinions(
    texts: Sequence[str],
    repaired: Mapping[int, str],
    related: Mapping[str, list[int]],
    mixed: Mapping[int, Any],
    unreliable: list[int],
    langs: list[str],
    scores: list[int],
) -> None:
    """Fill in what becomes of the texts on which pycld2 is not to be believed alone, given by their places."""
    from pipeline.text import second_opinion

    def settle(places: Sequence[int], opinion: Callable[[list[str]], Found]) -> None:
        for at, lang, score in zip(places, *opinion([repaired.get(at, texts[at]) for at in places]), strict=True):
            langs[at], scores[at] = lang, score

    unnamed = list(unreliable)
    for label, places in related.items():
        lang = canonical(label)
        if lang is None:
            unnamed += places
        else:
            settle(places, partial(second_opinion.of_family, lang, [scores[at] for at in places]))
    named = [at for at, details in mixed.items() if canonical(details[0][1]) is not None]
    unnamed += mixed.keys() - set(named)
    if named:
        settle(named, partial(second_opinion.of_mixed, [mixed[at] for at in named]))
    if unnamed:
        settle(unnamed, second_opinion.of_unreliable)


def _again(text: str) -> tuple[str, bool, Any]:
    """pycld2's second try, without what it rejects."""
    text = _REJECTED.sub(" ", text)
    try:
        reliable, _, details = pycld2.detect(text, True)
    except pycld2.error:  # it still takes the text for no UTF-8; py3langid takes any
        return text, False, ()
    return text, reliable, details


@cache
def supported() -> frozenset[str]:
    """Canonical codes that either model can name and tell from their neighbours; a text in any other language cannot be checked."""
    codes = dict(_pycld2_languages())
    labels = [codes[name] for name in pycld2.DETECTED_LANGUAGES if name in codes] + list(LANGID_LABELS)
    named = {code for code in map(canonical, labels) if code is not None}
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
