"""controls: invisible format characters stay where the script needs them and go elsewhere, since there they only make a second spelling; unit: the character.

    U+200C ZWNJ, U+200D ZWJ          stay beside a letter of a script that is joined or stacked (Arabic, Syriac, Mongolian, N'Ko, Indic, Burmese, Khmer, …);
                                     U+200D within emoji
    U+200B ZWSP                      stays beside a letter of a script without spaces and with long words (Thai, Lao, Khmer, Burmese, Tibetan, …)
    U+200E LRM, U+200F RLM, U+061C   stay in texts with a letter written from right to left
    U+202A–202C, U+2066–2069         (embeddings, isolates) stay in such texts, on lines where each is closed and no override stands
    U+E0020–E007F tags               stay in the emoji of flags
    U+202D, U+202E overrides, U+2061–2064 unseen operators, U+206A–206F deprecated, U+FFF9–FFFB annotation, other tags: go

A run of the same one counts as one. Direction: nothing visible goes. Source: the Unicode Standard 16, sections 9.2, 12.1 and 23.2–23.9, and UAX 9. Combining marks, the Mongolian vowel separator and
variation selectors are no controls and stay.
"""

from __future__ import annotations

import re

from pipeline.text.characters import LONG_WORD_SCRIPTS
from pipeline.text.languages import Language

_JOINED = (
    "\u0600-\u077f\u07c0-\u07ff\u0840-\u08ff\ufb50-\ufdff\ufe70-\ufefc\u1800-\u18af\ua840-\ua87f\U0001e900-\U0001e95f"  # cursive
    "\u0900-\u0dff\u0f00-\u109f\u1780-\u17ff\u1a20-\u1aaf\u1b00-\u1bff\u1cd0-\u1cff\ua8e0-\ua8ff\ua980-\ua9ff\uaa60-\uaa7f\uaae0-\uaaff\uabc0-\uabff"
    "\U00011000-\U00011fff"  # Brahmic
)
_EMOJI = "\u00a9\u00ae\u2190-\u27bf\u2b00-\u2bff\u3030\u303d\u3297\u3299\ufe0f\U0001f000-\U0001faff"
_RIGHT_TO_LEFT = re.compile(
    "[\u05d0-\u05f2\u0620-\u064a\u066e-\u06d3\u06ee-\u085f\u0860-\u08c9\ufb1d-\ufdff\ufe70-\ufefc\U00010800-\U00010fff\U0001e800-\U0001efff]"
)
_JOINED_LETTER, _LONG_WORDS, _IN_EMOJI = (re.compile(f"[{each}]") for each in (_JOINED, LONG_WORD_SCRIPTS, _EMOJI))

TOUCHES = "[\u061c\u200b-\u200f\u202a-\u202e\u2061-\u2064\u2066-\u206f\ufff9-\ufffb\U000e0000-\U000e007f]"
_ZERO_WIDTH = re.compile("[\u200b-\u200d]+")
_REPEATED = re.compile("([\u200b-\u200f\u061c])\\1+")
_MARKS = re.compile("[\u061c\u200e\u200f]")
_PAIRED = re.compile("[\u202a-\u202e\u2066-\u2069]")
_NEVER = re.compile("[\u2061-\u2064\u206a-\u206f\ufff9-\ufffb]")
_TAGS = re.compile("(\U0001f3f4[\U000e0020-\U000e007e]+\U000e007f)|[\U000e0000-\U000e007f]+")
_OPENS = {"\u202a": "\u202c", "\u202b": "\u202c", "\u2066": "\u2069", "\u2067": "\u2069", "\u2068": "\u2069"}


def apply(text: str, language: Language | None) -> str:
    """The text without controls that have nothing to do where they stand; by its letters, whatever its language."""
    text = _TAGS.sub(lambda match: match[1] or "", _NEVER.sub("", text))
    if _RIGHT_TO_LEFT.search(text) is None:
        text = _PAIRED.sub("", _MARKS.sub("", text))
    elif _PAIRED.search(text) is not None:
        text = "\n".join([line if _is_balanced(line) else _PAIRED.sub("", line) for line in text.split("\n")])
    return _ZERO_WIDTH.sub(_zero_width, _REPEATED.sub("\\1", text))


def _is_balanced(line: str) -> bool:
    """Whether each embedding and isolate of the line is closed, in order, and nothing overrides the direction."""
    waiting: list[str] = []
    for control in _PAIRED.findall(line):
        if control in _OPENS:
            waiting.append(_OPENS[control])
        elif not waiting or waiting.pop() != control:
            return False
    return not waiting


def _zero_width(run: re.Match[str]) -> str:
    """What stays of a run of zero-width characters, by the visible ones at its sides."""
    text = run.string
    sides = text[max(0, run.start() - 1) : run.start()], text[run.end() : run.end() + 1]
    joined, long_words = (any(side and letter.match(side) for side in sides) for letter in (_JOINED_LETTER, _LONG_WORDS))
    emoji = all(side and _IN_EMOJI.match(side) for side in sides)
    return "".join(
        character for character in run[0] if (long_words if character == "\u200b" else joined or (emoji and character == "\u200d"))
    )
