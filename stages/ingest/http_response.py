"""The page in an archived HTTP response: status, media type, and the text of its body.

    HTTP/1.1 200 OK\\r\\nContent-Type: text/html; charset=...\\r\\n\\r\\n<html>...   ->   Response(200, "text/html", "...", b"<html>...")

A body that still is chunked or compressed (gzip, deflate; crawls differ) is undone, one layer of each, up to a limit. Its characters
are UTF-8 if it can be read as such, else what the response or the page declares, else what resiliparse's detector says, and always strict:
what none of them can read is no text (`bad_charset`).
"""

from __future__ import annotations

import codecs
import re
import zlib
from dataclasses import dataclass

_END_OF_HEADER = re.compile(rb"\r?\n\r?\n")
_STATUS = re.compile(r"HTTP/\d(?:\.\d)? +(\d{3})(?: |$)")
_CHARSET = re.compile(r"charset\s*=\s*[\"']?([A-Za-z0-9_.:-]+)", re.IGNORECASE)
_META_BYTES = 4096
_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))


class ResponseError(Exception):
    """Why a response cannot be read: (reason, detail)."""


@dataclass(frozen=True, slots=True)
class Response:
    """A response; `media_type` and `charset` in lower case, empty where nothing is declared."""

    status: int
    media_type: str
    charset: str
    body: bytes


def parse(data: bytes, max_bytes: int) -> Response:
    """The response, its body unpacked.

    Raises:
        ResponseError: `bad_http`: it has no status line or header, or its body cannot be unpacked; `record_too_long`: it unpacks to more than `max_bytes`.
    """
    end = _END_OF_HEADER.search(data)
    lines = data[: end.start() if end else 1024].decode("latin-1").replace("\r", "").split("\n")
    status = _STATUS.match(lines[0])
    if end is None or status is None:
        raise ResponseError("bad_http", f"{lines[0][:40]!r} begins no HTTP response")
    fields: dict[str, str] = {}
    for line in lines[1:]:
        name, _, value = line.partition(":")
        fields.setdefault(name.strip().lower(), value.strip())
    declared = fields.get("content-type", "")
    charset = _CHARSET.search(declared)
    body = data[end.end() :]
    if fields.get("transfer-encoding", "").lower() == "chunked":
        body = _unchunked(body)
    body = _unpacked(body, fields.get("content-encoding", "").lower(), max_bytes)
    return Response(int(status[1]), declared.partition(";")[0].strip().lower(), charset[1].lower() if charset else "", body)


def _unchunked(body: bytes) -> bytes:
    """The body without the sizes of its chunks; as it is where it has none, as in archives whose crawler took them off."""
    parts, at = [], 0
    while size := re.compile(rb"([0-9A-Fa-f]{1,8})(?:;[^\r\n]*)?\r\n").match(body, at):
        length = int(size[1], 16)
        parts.append(body[size.end() : size.end() + length])
        if length == 0 or len(parts[-1]) < length:
            return b"".join(parts)
        at = size.end() + length + 2
    return b"".join(parts) if parts else body


def _unpacked(body: bytes, encoding: str, max_bytes: int) -> bytes:
    if encoding in ("gzip", "x-gzip") and body.startswith(b"\x1f\x8b"):
        unpacker = zlib.decompressobj(wbits=31)
    elif encoding == "deflate" and body[:1] == b"\x78":
        unpacker = zlib.decompressobj()
    elif encoding in ("", "identity", "none", "gzip", "x-gzip", "deflate"):
        return body  # where the crawler unpacked it, the header may still say what it was
    else:
        if body.lstrip()[:1] == b"<":
            return body
        raise ResponseError("bad_http", f"content encoding {encoding[:20]!r} is not known")
    try:
        out = unpacker.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise ResponseError("bad_http", f"{encoding}: {error}") from None
    if len(out) > max_bytes:
        raise ResponseError("record_too_long", f"{encoding}: more than {max_bytes} bytes")
    return out


def text_of(response: Response, cut_short: bool) -> str:
    """The characters of the body; `cut_short`: the crawler kept its first part alone, and a last character may lack bytes.

    Raises:
        ResponseError: `bad_charset`.
    """
    tried = []
    for charset in _charsets(response):
        if charset in tried:
            continue
        tried.append(charset)
        try:
            return codecs.getincrementaldecoder(charset)("strict").decode(response.body, not cut_short).removeprefix("\ufeff")
        except (UnicodeDecodeError, LookupError):
            continue
    raise ResponseError("bad_charset", f"none of {', '.join(tried)} reads it")


def _charsets(response: Response) -> list[str]:
    """Names of Python's codecs for the encodings that the body may be in, the likeliest first."""
    from resiliparse.parse.encoding import detect_encoding, map_encoding_to_html5

    for mark, charset in _MARKS:
        if response.body.startswith(mark):
            return [charset]
    in_page = _CHARSET.search(response.body[:_META_BYTES].decode("latin-1"))
    labels = [label for label in (response.charset, in_page[1].lower() if in_page else "") if label]
    declared = [name for label in labels if (name := map_encoding_to_html5(label, fallback_utf8=False))]
    if "iso2022_jp" in declared:
        return ["iso2022_jp"]  # its bytes are ASCII, and so UTF-8 too
    detected = detect_encoding(response.body, html5_compatible=True)
    return ["utf-8", *declared, *([detected] if detected else [])]
