"""Lines of a text in another language than the text is said to be in: a menu, a quotation, a document of two languages.

    text -> is, by its own identification, in its language to 95%? -- yes --> 0, lines are not looked at
         -> lines of at least 60 characters -> identified one by one -> characters of those that are, with a score of at least 9,000, another language
        -> their share of the characters of all such lines, in 1/10,000, rounded up; -1 where nothing could be judged

Nine of ten documents of SIB-200 sentences end at the first step, so the measure costs a sixth of what identifying the documents does.

Source: CCNet identifies whole documents, OSCAR lines; here both. Direction: more is worse. A language that no model can check (`supported`) is not judged, twins and wider names
agree (`agrees`), and the only such line of a text that is one line is answered by the text's own identification.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from pipeline.text.identify import UNDETERMINED, Found, agrees

MIN_CHARACTERS = 60
"""Shorter lines are not judged: models err on one in twenty of them."""
MIN_SCORE = 9_000
UNANIMOUS = 9_500
"""A text that is identified as its language with this score has no foreign lines worth counting."""


def foreign_shares(
    texts: Sequence[str], langs: Sequence[str], found: Found, identify_all: Callable[[Sequence[str]], Found], supported: Collection[str]
) -> list[int]:
    """The measure of each text.

    Args:
        texts: documents, lines parted by line feeds.
        langs: what each is said to be in.
        found: what each was identified as, as a whole.
        identify_all: the identification that gave `found`.
        supported: codes that it can tell.
    """
    wholes = dict(zip(range(len(texts)), zip(*found, strict=True), strict=True))
    lines: list[str] = []
    owners: list[int] = []
    unanimous = [False] * len(texts)
    for at, (text, lang) in enumerate(zip(texts, langs, strict=True)):
        if lang not in supported:
            continue
        if len(text) >= MIN_CHARACTERS and wholes[at][1] >= UNANIMOUS and agrees(lang, wholes[at][0]):
            unanimous[at] = True
            continue
        if "\n" not in text:
            if len(text) >= MIN_CHARACTERS:
                owners.append(-1 - at)
            continue
        for line in text.split("\n"):
            if len(line) >= MIN_CHARACTERS:
                lines.append(line)
                owners.append(at)
    answers = list(zip(*identify_all(lines), strict=True)) if lines else []
    judged, foreign = [0] * len(texts), [0] * len(texts)
    identified = iter(zip(lines, answers, strict=True))
    for owner in owners:
        if owner < 0:
            at, text = -1 - owner, texts[-1 - owner]
            lang, score = wholes[at]
        else:
            at = owner
            text, (lang, score) = next(identified)
        judged[at] += len(text)
        if score >= MIN_SCORE and lang != UNDETERMINED and not agrees(langs[at], lang):
            foreign[at] += len(text)
    return [
        0 if own else -(-other * 10_000 // whole) if whole else -1 for own, other, whole in zip(unanimous, foreign, judged, strict=True)
    ]
