"""Message catalogs: gettext and MediaWiki; keys align, what is not translated is counted, a broken entry costs itself."""

from __future__ import annotations

import gzip
import json
import struct

import polib
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.ingest.records import Damaged, Record
from stages.ingest.sources import gettext_catalog, mediawiki_i18n
from tests.stages.ingest.reading import damage, dropped, read, records

CONFIG = gettext_catalog.Config(kind="gettext", path="x.po")
BOTH = gettext_catalog.Config(kind="gettext", path="x.po", source_lang="en")
PO = r"""# Translators
msgid ""
msgstr ""
"Language: sw\n"
"Content-Type: text/plain; charset=UTF-8\n"

#: a.c:1
msgid "Open"
msgstr "Fungua"

#, fuzzy
msgid "Close"
msgstr "Funga?"

msgctxt "menu"
msgid "Open"
msgstr ""
"Fungua "
"faili\n"

msgid "%d file"
msgid_plural "%d files"
msgstr[0] "faili %d"
msgstr[1] "faili %d nyingi"

# stands apart

msgid "Save"
msgstr ""

#~ msgid "Old"
#~ msgstr "Kale"
"""


def test_translated_messages_are_documents_with_their_key_as_group() -> None:
    found = read(gettext_catalog, CONFIG, PO.encode(), "po/sw.po")
    assert [(r.text, r.lang, r.group) for r in records(found)] == [
        ("Fungua", "sw", "Open"),
        ("Fungua faili\n", "sw", "menu\x04Open"),
        ("faili %d", "sw", "%d file"),
        ("faili %d nyingi", "sw", "%d file[1]"),
    ]
    assert dropped(found) == ["fuzzy", "untranslated", "obsolete"] and not damage(found)
    assert records(found)[0].offset == PO.encode().index(b"#: a.c:1")
    assert {r.lang for r in records(read(gettext_catalog, CONFIG, PO.encode(), "x.po", lang="swh"))} == {"swh"}


def test_msgids_can_be_documents_of_the_source_language_aligned_by_the_same_key() -> None:
    found = records(read(gettext_catalog, BOTH, PO.encode(), "sw.po"))
    english = {r.group: r.text for r in found if r.lang == "en"}
    assert english == {"Open": "Open", "menu\x04Open": "Open", "%d file": "%d file", "%d file[1]": "%d files"}
    assert {r.group for r in found if r.lang == "sw"} == set(english)
    assert len({(r.offset, r.ordinal) for r in found}) == len(found)


@pytest.mark.parametrize("compress", [False, True])
def test_a_compiled_catalog_says_the_same_as_its_text(compress: bool) -> None:
    compiled = polib.pofile(PO).to_binary()
    data, name = (gzip.compress(compiled), "sw/LC_MESSAGES/x.mo.gz") if compress else (compiled, "sw/LC_MESSAGES/x.mo")
    from_text = {(r.text, r.lang, r.group) for r in records(read(gettext_catalog, BOTH, PO.encode(), "x.po"))}
    found = read(gettext_catalog, BOTH, data, name)
    assert {(r.text, r.lang, r.group) for r in records(found)} == from_text
    assert len({(r.offset, r.ordinal) for r in records(found)}) == len(records(found)) and not damage(found)


def test_a_broken_entry_costs_itself_and_the_rest_is_read() -> None:
    broken = PO.replace('msgstr "Fungua"', 'msgstr "Fungua" x', 1).encode().replace(b"Funga?", b"Funga\xff")
    found = read(gettext_catalog, CONFIG, broken, "x.po")
    assert [reason for _, reason in damage(found)] == ["bad_catalog", "invalid_utf8"]
    assert len(records(found)) == 3
    assert damage(found)[0][0] == broken.index(b"#: a.c:1")


def test_other_charsets_are_read_as_the_header_says() -> None:
    latin = PO.replace("UTF-8", "ISO-8859-2").replace("Fungua", "Otevřít")
    assert "Otevřít" in {r.text for r in records(read(gettext_catalog, CONFIG, latin.encode("iso-8859-2"), "x.po"))}
    assert damage(read(gettext_catalog, CONFIG, PO.replace("UTF-8", "KLINGON").encode(), "x.po")) == [(0, "bad_charset")]


MESSAGE = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x04\0\r"), min_size=1, max_size=20)


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(MESSAGE, MESSAGE.filter(lambda text: bool(text.strip())), max_size=6))
def test_every_message_of_a_written_catalog_comes_back(messages: dict[str, str]) -> None:
    catalog = polib.POFile()
    catalog.metadata = {"Content-Type": "text/plain; charset=utf-8", "Language": "sw"}
    for source, translation in messages.items():
        catalog.append(polib.POEntry(msgid=source, msgstr=translation))
    compiled = records(read(gettext_catalog, CONFIG, catalog.to_binary(), "x.mo"))
    assert {r.group: r.text for r in compiled} == messages
    written = read(gettext_catalog, CONFIG, str(catalog).encode(), "x.po")
    assert {r.group: r.text for r in records(written)} == messages


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_any_damage_to_a_compiled_catalog_ends_in_records_or_quarantine(data: st.DataObject) -> None:
    compiled = bytearray(polib.pofile(PO).to_binary())
    for _ in range(data.draw(st.integers(1, 4))):
        compiled[data.draw(st.integers(0, len(compiled) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(compiled)[: data.draw(st.integers(0, len(compiled)))]
    assert all(isinstance(item, Record | Damaged) or item.reason for item in read(gettext_catalog, CONFIG, cut, "x.mo"))


def test_a_catalog_that_claims_a_billion_messages_is_refused_at_once() -> None:
    bomb = struct.pack("<7I", 0x950412DE, 0, 1 << 30, 28, 28, 0, 0)
    assert damage(read(gettext_catalog, CONFIG, bomb, "x.mo")) == [(0, "truncated")]
    assert damage(read(gettext_catalog, CONFIG, b"text", "x.mo")) == [(0, "bad_catalog")]
    assert read(gettext_catalog, CONFIG, b"", "x.mo") == []


# ---------------------------------------------------------------- MediaWiki

I18N = mediawiki_i18n.Config(kind="mediawiki-i18n", path="i18n/*.json")


def i18n(text: str, name: str = "i18n/sw.json") -> list[object]:
    return list(read(mediawiki_i18n, I18N, text.encode(), name))


def test_a_message_is_a_document_with_its_key_as_group_and_the_name_as_language() -> None:
    found = i18n('{"@metadata": {"authors": ["A"]}, "cite-desc": "Huongeza $1 {{PLURAL:$1|x}}", "b": ""}')
    assert found == [Record(0, 1, "Huongeza $1 {{PLURAL:$1|x}}", "sw", "cite-desc"), Record(0, 2, "", "sw", "b")]
    assert [r.lang for r in i18n('{"a": "b"}', "i18n/zh-hans.json") if isinstance(r, Record)] == ["zh-hans"]
    assert [r.lang for r in i18n('{"a": "b"}', "i18n/qqq.json.gz".removesuffix(".gz")) if isinstance(r, Record)] == ["qqq"]
    assert json.loads('{"a": 1}') == {"a": 1}


def test_bad_messages_are_quarantined_alone_and_bad_files_whole() -> None:
    found = read(mediawiki_i18n, I18N, b'{"a": 1, "b": "x", "b": "y", "c": "\\ud800", "d": ["e"], "f": "fine"}', "sw.json")
    assert [r.text for r in records(found)] == ["fine"]
    assert [reason for _, reason in damage(found)] == ["bad_field", "duplicate_key", "duplicate_key", "lone_surrogate", "bad_field"]
    for bad in (b"[]", b'[["a", "b"]]', b'{"a": NaN}', b'{"a": ', b"[" * 100_000, b"3"):
        assert damage(read(mediawiki_i18n, I18N, bad, "sw.json")) == [(0, "bad_json")], bad[:20]
    assert damage(read(mediawiki_i18n, I18N, b"\xff", "sw.json")) == [(0, "invalid_utf8")]
