"""HTML: a document is the file, or each element that a selector finds; its text is its paragraphs, joined by LF.

    <html lang="en">                               document: article, group_attribute: data-number, lang_attribute: lang
      <article data-number="3"><h2>Article 3</h2>    ->  Record(0, 0, "Everyone has the right to life.\n...", lang "en", group "3")
        <p>Everyone has the right to life.</p>

White space runs are one space and `<br>` is white space, as in a browser. Where one found element lies in another, the outer one
counts. What `drop` finds (headings, scripts) is taken out first. A document without a paragraph is a record with no text, so that
its absence is counted later. The parser keeps no places: the offset of all documents of a file is 0, the ordinal tells them apart.
Files are UTF-8, whatever they declare. Elements more than 512 deep, where parsing time becomes quadratic, quarantine the file
(`nested_too_deeply`).

With `strip_enumerators` a paragraph loses what numbers it, in digits of any script (see `enumerators`), and a heading that it
repeats, for a corpus where the number of a paragraph must not be given away.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from typing import Any, Literal

from pydantic import Field

from pipeline.config import NonEmpty
from pipeline.errors import ConfigError
from stages.ingest.enumerators import without_enumerator, without_heading
from stages.ingest.records import Damaged, Pending, Record, Slice, SourceFile
from stages.ingest.sources.base import OpenRaw, SourceConfig, chunks_of, stated_languages
from stages.ingest.streams import decode, whole

_HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")
MAX_DEPTH = 512
_SPACE = re.compile("[ \t\n\f\r]+")
_TAG = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9-]*)[^>]*?(/?)>")
_EMPTY = ("area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source", "track", "wbr")
_CLOSED_BY_LIKE = ("p", "li", "dt", "dd", "tr", "td", "th", "thead", "tbody", "tfoot", "option", "optgroup", "rt", "rp")
_UNNESTED = frozenset((*_EMPTY, *_CLOSED_BY_LIKE, "html", "head", "body"))
"""Elements that hold nothing, or that their like closes: they do not nest however many stand in a row."""


class Config(SourceConfig):
    """HTML files."""

    kind: Literal["html"]
    """HTML."""
    document: NonEmpty = "file"
    """What a document is: `file`, or a CSS selector such as `article`."""
    group_attribute: NonEmpty | None = None
    """Attribute of the document's element (for `file`: of `html`) that aligns it with its translations."""
    lang_attribute: NonEmpty | None = None
    """Attribute, of the document's element or the nearest around it, that states the language; else `lang` and `{lang}` serve."""
    paragraphs: NonEmpty = "p"
    """CSS selector of the paragraphs."""
    drop: tuple[str, ...] = ("script", "style", "template", "noscript", *_HEADINGS)
    """CSS selectors of what is taken out first."""
    strip_enumerators: bool = False
    """Whether a paragraph loses a leading number or letter that enumerates it, and a heading it repeats."""
    max_record_bytes: int = Field(64 << 20, ge=1)
    """Largest file, in decompressed bytes; a larger one is quarantined."""


def languages_of(file: SourceFile, config: Config) -> tuple[str, ...] | None:
    """The file's own language; None where `lang_attribute` lets each record say its own."""
    return None if config.lang_attribute is not None else stated_languages(file, config)


def slices(file: SourceFile, config: Config, max_bytes: int) -> list[Slice]:
    """The whole file."""
    return [Slice()]


def read(open_raw: OpenRaw, file: SourceFile, part: Slice, config: Config) -> Iterator[Pending | Damaged]:
    """The documents of the file.

    Raises:
        ConfigError: a selector is not CSS.
    """
    from selectolax.lexbor import LexborHTMLParser

    with open_raw() as raw:
        data = whole(chunks_of(raw, file, config), config.max_record_bytes)
    text = data if isinstance(data, Damaged) else decode(data)
    if isinstance(text, str) and depth(text) > MAX_DEPTH:
        text = Damaged(0, len(text.encode()), "nested_too_deeply", True, f"elements more than {MAX_DEPTH} deep", 0)
    if isinstance(text, Damaged):
        yield text
        return
    tree = LexborHTMLParser(text)
    root = tree.root
    if root is None:
        return
    documents = [root] if config.document == "file" else _outermost(root, config.document, "document")
    for ordinal, node in enumerate(documents):
        lang = _attribute_around(node, config.lang_attribute) or config.lang or file.lang
        yield Pending(0, lang, partial(_document, node, ordinal, lang, config))


def _document(node: Any, ordinal: int, lang: str | None, config: Config) -> Record:
    headings = [_text_of(heading) for heading in node.css(", ".join(_HEADINGS))] if config.strip_enumerators else []
    for selector in config.drop:
        for dropped in _outermost(node, selector, "drop"):
            if dropped.mem_id != node.mem_id:
                dropped.decompose()
    for line_break in node.css("br"):
        line_break.replace_with("\n")
    paragraphs = [_text_of(paragraph) for paragraph in _outermost(node, config.paragraphs, "paragraphs")]
    if config.strip_enumerators:
        paragraphs = [without_enumerator(without_heading(paragraph, headings)) for paragraph in paragraphs]
    group = (node.attributes.get(config.group_attribute) or None) if config.group_attribute else None
    return Record(0, ordinal, "\n".join(filter(None, paragraphs)), lang, group, None, config.licence)


def _text_of(node: Any) -> str:
    return _SPACE.sub(" ", node.text()).strip(" ")


def _outermost(node: Any, selector: str, field: str) -> list[Any]:
    """What the selector finds in and below `node`, in the order of the file, without what lies in another find."""
    from selectolax.lexbor import SelectolaxError

    try:
        found = node.css(selector)
    except SelectolaxError as error:
        raise ConfigError(f"{field}: {selector!r} is not a CSS selector: {error}") from None
    ids = {match.mem_id for match in found}
    return [match for match in found if not _lies_in(match, ids)]


def _lies_in(node: Any, ids: set[int]) -> bool:
    above = node.parent
    while above is not None:
        if above.mem_id in ids:
            return True
        above = above.parent
    return False


def _attribute_around(node: Any, name: str | None) -> str | None:
    while name is not None and node is not None:
        value: str | None = node.attributes.get(name)
        if value:
            return value
        node = node.parent
    return None


def depth(text: str) -> int:
    """An upper estimate of how deep elements nest, from tags alone and in linear time; elements that close each other do not count."""
    nested = deepest = 0
    for match in _TAG.finditer(text, 0, text.rfind(">") + 1):  # behind it a search would begin at each `<` and find nothing
        closing, name, empty = match.groups()
        if name.lower() in _UNNESTED or empty:
            continue
        nested = max(0, nested - 1) if closing else nested + 1
        deepest = max(deepest, nested)
    return deepest
