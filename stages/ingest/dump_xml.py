"""The XML of a MediaWiki dump: what its head says of the wiki, and the fields of one page.

    <siteinfo> <base>https://sw.wikipedia.org/wiki/Mwanzo</base> <namespaces>...   ->  Site("sw", "https://sw.wikipedia.org/wiki/", ...)
    <page> <title>Moshi</title> <ns>0</ns> <revision>... <text>...</text>           ->  Page("Moshi", 0, False, "wikitext", "...")

Each page is parsed alone, by expat, so memory is bounded by a page and a broken one costs itself. A document type is refused: dumps
have none, and entities are declared only there. Of several revisions the last in the file counts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NoReturn
from urllib.parse import quote
from xml.parsers import expat

_KEPT = frozenset(("page/title", "page/ns", "page/revision/text", "page/revision/model", "page/revision/format"))
_FILE, _CATEGORY, _MEDIA = 6, 14, -2
_ENGLISH = ("File", "Image", "Category", "Media")


class DumpError(Exception):
    """Why a page or head is no XML of a dump."""


@dataclass(frozen=True, slots=True)
class Site:
    """A wiki. `base`: what stands before a title in an address; `unlinked`: names of namespaces, in lower case, whose links are no text."""

    lang: str | None = None
    base: str | None = None
    unlinked: frozenset[str] = frozenset(name.lower() for name in _ENGLISH)

    def url(self, title: str) -> str | None:
        """The address of a page."""
        return None if self.base is None else self.base + quote(title.replace(" ", "_"), safe="/:@!$&'()*+,;=~-._")


@dataclass(frozen=True, slots=True)
class Page:
    """A page; `text` is None where it has been removed from the wiki or the element is missing."""

    title: str
    namespace: int
    redirect: bool
    model: str
    text: str | None


@dataclass
class _Reader:
    """Collects the texts and attributes of the elements on the way."""

    path: list[str] = field(default_factory=list)
    texts: dict[str, list[str]] = field(default_factory=dict)
    attributes: list[tuple[str, dict[str, str], str]] = field(default_factory=list)
    everything: bool = False

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self.path.append(name.rpartition(":")[2])
        place = "/".join(self.path)
        self.texts[place] = []  # the last of several counts
        if attributes or place == "page/redirect":
            self.attributes.append((place, attributes, ""))

    def end(self, name: str) -> None:
        place = "/".join(self.path)
        if self.everything and self.attributes and self.attributes[-1][0] == place:
            self.attributes[-1] = (*self.attributes[-1][:2], "".join(self.texts[place]))
        self.path.pop()

    def text(self, data: str) -> None:
        place = "/".join(self.path)
        if self.everything or place in _KEPT:
            self.texts[place].append(data)

    def read(self, data: bytes) -> None:
        parser = expat.ParserCreate("utf-8")
        parser.buffer_text = True
        parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = self.start, self.end, self.text
        parser.StartDoctypeDeclHandler = _refuse
        try:
            parser.Parse(data, True)
        except expat.ExpatError as error:
            raise DumpError(str(error)) from None

    def of(self, place: str) -> str | None:
        return None if place not in self.texts else "".join(self.texts[place])


def _refuse(*_: object) -> NoReturn:
    raise DumpError("a document type is refused")


def read_site(head: bytes) -> Site:
    """What the beginning of a dump says, up to the end of `siteinfo`; a wiki of which nothing is known where there is none.

    Raises:
        DumpError: it is not XML.
    """
    end = head.find(b"</siteinfo>")
    if end < 0:
        return Site()
    reader = _Reader(everything=True)
    reader.read(head[: end + len(b"</siteinfo>")] + b"</mediawiki>")
    lang, names = None, set(_ENGLISH)
    for place, attributes, text in reader.attributes:
        if place == "mediawiki":
            lang = attributes.get("xml:lang")
        elif place.endswith("/namespace") and attributes.get("key") in (str(_FILE), str(_CATEGORY), str(_MEDIA)):
            names.add(text)
    base = reader.of("mediawiki/siteinfo/base")
    return Site(lang, base.rpartition("/")[0] + "/" if base else None, frozenset(name.lower() for name in names if name))


def read_page(data: bytes) -> Page:
    """The fields of a page, from `<page>` to `</page>`.

    Raises:
        DumpError: it is not XML, or has no title or namespace.
    """
    reader = _Reader()
    reader.read(data)
    title, namespace = reader.of("page/title"), (reader.of("page/ns") or "").strip()
    if title is None or not namespace.removeprefix("-").isdecimal():
        raise DumpError("no title" if title is None else f"{namespace!r} is no number of a namespace")
    removed = any(place == "page/revision/text" and "deleted" in attributes for place, attributes, _ in reader.attributes)
    redirect = any(place == "page/redirect" for place, _, _ in reader.attributes)
    text = None if removed else reader.of("page/revision/text")
    return Page(title, int(namespace), redirect, reader.of("page/revision/model") or "wikitext", text)
