"""Messages of gettext catalogs: text (.po, .pot) through polib, and compiled (.mo, whose tables are read here).

    #, fuzzy                        ->  Message(offset, key "Open", sources ("Open",), texts ("Fungua",), state "fuzzy")
    msgid "Open"
    msgstr "Fungua"

The key is the message's context, if it has one, an EOT (U+0004, as in gettext's own tables) and its msgid. In a .po file entries are
parted by blank lines and read one by one: a broken one costs itself, and the offset is that of its first line. In a .mo file
the offset is that of the translation. The character set is the one that the header states, read strictly, else UTF-8.
"""

from __future__ import annotations

import codecs
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from stages.ingest.records import Damaged

_CONTEXT = "\x04"
_CHARSET = re.compile(rb"charset=([A-Za-z0-9_.:-]+)")
_HEAD_BYTES = 1 << 14
_HIDDEN = {ord(character): 0xFDD0 + number for number, character in enumerate("\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029\r")}
"""polib takes these for line ends; it is given characters that no text holds (Unicode's noncharacters) in their place."""
_SHOWN = {hidden: character for character, hidden in _HIDDEN.items()}
_NEEDS_UTF8 = frozenset(("charset", "utf8", "utf-8"))  # a template's placeholder is the word CHARSET


@dataclass(frozen=True, slots=True)
class Message:
    """A message. `sources`: msgid and, where there is a plural, msgid_plural; `texts`: the translations, one a plural form."""

    offset: int
    key: str
    sources: tuple[str, ...]
    texts: tuple[str, ...]
    state: Literal["translated", "fuzzy", "obsolete", "untranslated"]


@dataclass(frozen=True, slots=True)
class Header:
    """The language that a catalog states, if any; the header itself is no message."""

    lang: str | None


def po_messages(data: bytes) -> Iterator[Message | Header | Damaged]:
    """The messages of a .po file in their order; a header comes where it stands."""
    import polib

    charset = _charset(data[:_HEAD_BYTES])
    if isinstance(charset, Damaged):
        yield charset
        return
    for offset, block in _blocks(data):
        try:
            text = block.decode(charset).replace("\r\n", "\n").translate(_HIDDEN)
            found = polib.pofile("\n" + text + "\n", encoding="utf-8")  # with a line end it cannot be taken for a path
        except UnicodeDecodeError as error:
            reason = "invalid_utf8" if charset == "utf-8" else "bad_charset"
            yield Damaged(offset, len(block), reason, False, f"{charset}: byte 0x{block[error.start]:02x} at +{error.start}")
            continue
        except (OSError, ValueError, IndexError, KeyError, AttributeError) as error:  # polib lets slip what odd syntax does to it
            yield Damaged(offset, len(block), "bad_catalog", False, str(error))
            continue
        if found.metadata:
            yield Header((found.metadata.get("Language") or "").strip() or None)
        for entry in found:
            key = entry.msgid if entry.msgctxt is None else entry.msgctxt + _CONTEXT + entry.msgid
            sources = (entry.msgid, entry.msgid_plural) if entry.msgid_plural else (entry.msgid,)
            texts = tuple(text for _, text in sorted(entry.msgstr_plural.items())) if entry.msgstr_plural else (entry.msgstr,)
            yield Message(
                offset, _shown(key), tuple(map(_shown, sources)), tuple(map(_shown, texts)), _state(entry.obsolete, entry.fuzzy, texts)
            )


def _shown(text: str) -> str:
    return text if text.isascii() else text.translate(_SHOWN)


def _state(obsolete: bool, fuzzy: bool, texts: tuple[str, ...]) -> Literal["translated", "fuzzy", "obsolete", "untranslated"]:
    if obsolete:
        return "obsolete"
    if not any(texts):
        return "untranslated"
    return "fuzzy" if fuzzy else "translated"


def _blocks(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Entries with their offsets: lines up to a blank one behind a message, so that comments which stand apart go with the entry behind them."""
    start = at = 0
    empty, holds_message = True, False
    for line in data.split(b"\n"):
        if line.strip():
            if empty:
                start, empty = at, False
            holds_message = holds_message or line.lstrip(b"#~ \t").startswith(b"msg")
        elif holds_message:
            yield start, data[start:at]
            empty, holds_message = True, False
        at += len(line) + 1
    if not empty:
        yield start, data[start:]


def mo_messages(data: bytes) -> Iterator[Message | Header | Damaged]:
    """The messages of a .mo file in the order of its table."""
    order = {b"\xde\x12\x04\x95": "<", b"\x95\x04\x12\xde": ">"}.get(data[:4])
    if order is None or len(data) < 20:
        yield Damaged(0, None, "bad_catalog", True, f"{data[:4]!r} begins no .mo file", 0)
        return
    revision, count, originals, translations = struct.unpack_from(order + "4I", data, 4)
    if revision >> 16 > 1 or max(originals, translations) + 8 * count > len(data):
        yield Damaged(0, None, "truncated", True, f"revision {revision >> 16}, tables of {count} messages in {len(data)} bytes", 0)
        return
    charset = "utf-8"
    for number in range(count):
        size, place = struct.unpack_from(order + "2I", data, originals + 8 * number)
        text_size, text_place = struct.unpack_from(order + "2I", data, translations + 8 * number)
        if place + size > len(data) or text_place + text_size > len(data):
            yield Damaged(min(text_place, len(data)), text_size, "truncated", False, f"message {number} lies behind the end of the file")
            continue
        original, translation = data[place : place + size], data[text_place : text_place + text_size]
        if not original:
            stated = _charset(translation)
            if isinstance(stated, Damaged):
                yield stated
                return
            charset = stated
            lang = re.search(rb"^Language: *([^\n]*)", translation, re.MULTILINE)
            yield Header((lang[1].decode("latin-1").strip() or None) if lang else None)
            continue
        try:
            key, texts = original.decode(charset), tuple(translation.decode(charset).split("\0"))
        except UnicodeDecodeError as error:
            reason = "invalid_utf8" if charset == "utf-8" else "bad_charset"
            yield Damaged(text_place, max(1, text_size), reason, False, f"message {number}: {charset}: {error.reason}")
            continue
        singular, _, plural = key.partition("\0")
        source = singular.rpartition(_CONTEXT)[2]
        yield Message(text_place, singular, (source, plural) if plural else (source,), texts, _state(False, False, texts))


def _charset(head: bytes) -> str | Damaged:
    stated = _CHARSET.search(head)
    name = stated[1].decode("ascii").lower() if stated else "utf-8"
    if name in _NEEDS_UTF8:
        return "utf-8"
    try:
        b"".decode(name)
        return codecs.lookup(name).name
    except LookupError:
        return Damaged(0, None, "bad_charset", True, f"charset {name!r} is not known", 0)
