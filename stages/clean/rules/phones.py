"""phones: telephone numbers become `<phone>`; unit: the number.

Replaced are numbers in international form (`+49 30 1234567`, 8 to 15 digits: ITU-T E.164), in North American form with brackets or hyphens (`(555) 010-9999`), and numbers of
6 to 15 digits behind a word for telephone in some thirty languages (`Tel.: …`, `电话：…`). Source: those forms. Direction: precise before complete: dates, ISBNs, prices and columns of numbers stay, and so
does a national number that nothing announces. Off by default, since FineWeb, whose `pii` rule is the pattern here, leaves telephone numbers.
"""

from __future__ import annotations

import re

from pipeline.text.languages import Language

PHONE = "<phone>"
TOUCHES = r"\p{Nd}(?:[ \x{a0}.()/–-]{0,3}\p{Nd}){5}"

_CUES = (
    "tel", "telephone", "phone", "mobile", "mob", "cell", "fax", "whatsapp", "viber", "telefon", "telefono", "teléfono", "telefone", "celular", "téléphone", "móvil", "handy",
    "telefoon", "telefax", "puhelin", "puh", "tlf", "tfn", "telefonu", "tél", "тел", "телефон", "факс", "моб", "τηλ", "τηλέφωνο", "telepon", "điện thoại", "đt", "simu", "โทร", "โทรศัพท์",
    "电话", "電話", "手机", "手機", "传真", "전화", "팩스", "هاتف", "تلفن", "تليفون", "جوال", "فون", "טלפון", "טל", "फोन", "फ़ोन", "मोबाइल", "ফোন", "தொலைபேசி", "ફોન", "ఫోన్", "ስልክ",
)  # fmt: skip
_BETWEEN = r"[ \u00a0.()/–-]{0,3}"
_BY_CUE = re.compile(
    rf"((?<!\w)(?:{'|'.join(sorted(set(map(re.escape, _CUES)), key=lambda cue: (-len(cue), cue)))})(?:[.:：)]|\s(?:no|nr|n°)\.?){{0,2}}\s?[:：]?\s?)(\(?\+?\d(?:{_BETWEEN}\d){{5,14}})(?!\w|[.,]\d)",
    re.IGNORECASE,
)
_INTERNATIONAL = re.compile(rf"(?<![\w+])(?:\+|00(?=[1-9]\d{{9}}))\d(?:{_BETWEEN}\d){{7,14}}(?!\w|[.,/]\d)")
_AMOUNT = re.compile(r"\+\d{2,3}(?:[ \u00a0.]\d{3}){2}|.*[ \u00a0.]000")
"""A sum with a sign (+10 000 000): eight or nine digits in threes, or thousands."""
_NORTH_AMERICAN = re.compile(r"(?<![\w+./-])(?:1[ -])?(?:\([2-9]\d{2}\) ?|[2-9]\d{2}-)\d{3}-\d{4}(?![\w-]|[.,/]\d)")


def apply(text: str, language: Language | None) -> str:
    """The text with placeholders; the same for every language."""
    text = _BY_CUE.sub(lambda match: match[1] + PHONE, text)
    return _NORTH_AMERICAN.sub(PHONE, _INTERNATIONAL.sub(lambda match: match[0] if _AMOUNT.fullmatch(match[0]) else PHONE, text))


def count(before: str, after: str) -> dict[str, int]:
    """How many were replaced."""
    return {"phone": after.count(PHONE) - before.count(PHONE)}
