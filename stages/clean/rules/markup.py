"""markup: HTML tags, comments and character references that were left in plain text.

Only what is certainly markup goes: tags of known HTML element names (`<p class="x">`, `</div>`, `<br/>`), comments, and named or numeric character
references, resolved as HTML5 does. A lone `<` or `&`, mathematics and `<unk>` stay.
"""

from __future__ import annotations

import html
import re
from typing import Any

from pipeline.text.languages import Language

_BLOCK = "p|div|br|hr|li|ul|ol|dl|dt|dd|h[1-6]|table|tr|td|th|thead|tbody|section|article|header|footer|blockquote|pre"
_INLINE = "a|abbr|b|big|cite|code|em|font|i|img|kbd|mark|q|ref|s|small|span|strong|sub|sup|tt|u|nowiki|noinclude|var"
_DROPPED = re.compile(r"<!--.*?-->|<(script|style)\b[^<>]*>.*?</\1\s*>", re.IGNORECASE | re.DOTALL)
_BLOCK_TAG = re.compile(rf"\s*</?(?:{_BLOCK})(?:\s[^<>]*)?/?>\s*", re.IGNORECASE)
_INLINE_TAG = re.compile(rf"</?(?:{_INLINE})(?:\s[^<>]*)?/?>", re.IGNORECASE)
_REFERENCE = re.compile(r"&(?:#[0-9]{1,7}|#x[0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")


def apply(text: str, language: Language | None) -> str:
    """The text without markup; block elements become line ends."""
    if "<" in text:
        text = _INLINE_TAG.sub("", _BLOCK_TAG.sub("\n", _DROPPED.sub("", text)))
    if "&" in text:
        text = _REFERENCE.sub(lambda match: html.unescape(match.group()), text)
    return text


def settled(data: Any, offsets: Any) -> Any:
    """Which texts of a batch (UTF-8, and where each begins and the last ends) it leaves as they are; bool, shape (texts,)."""
    from pipeline.text import settled

    return settled.without(data, offsets, "<", "&")
