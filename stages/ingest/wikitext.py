"""Wiki markup to text, by mwparserfromhell.

    '''Moshi''' ni [[mji]].<ref>...</ref> [[Jamii:Miji]]   ->   Moshi ni mji.

Taken out: templates, comments, references, tables, galleries, formulae, source code, links into the namespaces of files and categories,
and headings. Links leave the text they show, `-{zh-hans:a; zh-hant:b}-` and other language variants stay as they are for `clean` to judge.
Text that a template makes (dates, transliterations) is lost: it stands nowhere in the dump.
"""

from __future__ import annotations

import re
from typing import Any

_DROPPED_TAGS = frozenset(
    ("ref", "references", "table", "gallery", "math", "chem", "score", "timeline", "syntaxhighlight", "source", "code", "pre", "imagemap",
     "graph", "mapframe", "maplink", "hiero", "templatedata", "categorytree", "inputbox", "style", "script", "section")
)  # fmt: skip
_SWITCHES = re.compile(r"__[A-Z_]{3,30}__")
_SPACE = re.compile(r"[ \t]+")


def text_of(markup: str, unlinked: frozenset[str]) -> str:
    """The text of a page, a line a paragraph or list item; `unlinked`: namespaces, in lower case, whose links are taken out.

    Raises:
        RecursionError, ValueError: the markup cannot be parsed.
    """
    import mwparserfromhell
    from mwparserfromhell.parser import ParserError

    try:
        code = mwparserfromhell.parse(markup, skip_style_tags=True)
        _prune(code, unlinked)
        text = str(code.strip_code(normalize=True, collapse=True))
    except ParserError as error:
        raise ValueError(str(error)) from None
    lines = (_SPACE.sub(" ", line.replace("'''", "").replace("''", "")).strip(" *#:;") for line in _SWITCHES.sub("", text).split("\n"))
    return "\n".join(filter(None, lines))


def _prune(code: Any, unlinked: frozenset[str]) -> None:
    from mwparserfromhell.nodes import Heading, Tag, Wikilink

    kept = []
    for node in code.nodes:
        if isinstance(node, Heading):
            kept.append(_newline())
            continue
        if isinstance(node, Tag) and str(node.tag).strip().lower() in _DROPPED_TAGS:
            continue
        if isinstance(node, Wikilink) and _namespace(str(node.title)) in unlinked:
            continue
        if isinstance(node, Tag) and node.contents is not None:
            _prune(node.contents, unlinked)
        if isinstance(node, Tag) and str(node.tag).strip().lower() == "br":
            node = _newline()
        kept.append(node)
    code.nodes = kept


def _newline() -> Any:
    from mwparserfromhell.nodes import Text

    return Text("\n")


def _namespace(title: str) -> str:
    """What stands before the colon of a title; a link that begins with a colon shows the page's name and is text."""
    return title.partition(":")[0].strip().lower().replace("_", " ") if ":" in title else ""
