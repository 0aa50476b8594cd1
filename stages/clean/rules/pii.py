"""pii: e-mail addresses become `<email>`, public IPv4 and IPv6 addresses `<ip>`; unit: the address.

Source: FineWeb and FineWeb2 (Penedo et al. 2024), which replace these two in all their text: so on by default, as there. Direction: precise before complete. An address of
four numbers needs one of at least 100, and no letter, dot, slash or hyphen at its sides: chapters (2.3.1.4) and versions stay, 2% of addresses too. Private, local and
documentation ranges stay, as in FineWeb. Phone numbers are the business of the rule `phones`.
"""

from __future__ import annotations

import ipaddress
import re

from pipeline.text.languages import Language

EMAIL, IP = "<email>", "<ip>"
TOUCHES = r"@|[0-9]\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]|[23][0-9A-Fa-f]{3}:[0-9A-Fa-f]{0,4}:"

_LETTER = "A-Za-z0-9À-ÖØ-öø-ɏΑ-Ωα-ωЀ-ӿ"  # of scripts with spaces: in Chinese or Thai the words around an address touch it
_EMAIL = re.compile(
    rf"(?<![{_LETTER}._%+-])[{_LETTER}_][{_LETTER}._%+'-]{{0,63}}@(?:[{_LETTER}](?:[{_LETTER}-]{{0,61}}[{_LETTER}])?\.){{1,8}}[A-Za-zЀ-ӿ]{{2,24}}(?![{_LETTER}@-])"
)
_OCTET = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = re.compile(rf"(?:(?<![{_LETTER}_./-])|(?<=://)){_OCTET}\.{_OCTET}\.{_OCTET}\.{_OCTET}(?![{_LETTER}_-]|\.[{_LETTER}])")
_IPV6 = re.compile(rf"(?<![{_LETTER}_:.])[23][0-9A-Fa-f]{{3}}(?::[0-9A-Fa-f]{{0,4}}){{2,7}}(?![{_LETTER}_:])")


def apply(text: str, language: Language | None) -> str:
    """The text with placeholders; the same for every language."""
    if "@" in text:
        text = _EMAIL.sub(EMAIL, text)
    return _IPV6.sub(_ipv6, _IPV4.sub(_ipv4, text))


def count(before: str, after: str) -> dict[str, int]:
    """How many of each were replaced."""
    return {"email": after.count(EMAIL) - before.count(EMAIL), "ip": after.count(IP) - before.count(IP)}


def _ipv4(match: re.Match[str]) -> str:
    a, b, c, d = map(int, match.groups())
    if max(a, b, c, d) < 100 or not _is_public(a, b, c):
        return match[0]
    return IP


def _is_public(a: int, b: int, c: int) -> bool:
    """Whether an address lies outside the ranges that IANA keeps for private, local, shared, test and multicast use (RFC 6890)."""
    if a in (0, 10, 127) or a >= 224:
        return False
    special = (a == 100 and 64 <= b < 128) or (a == 172 and 16 <= b < 32) or (a == 198 and b in (18, 19))
    return (
        not special
        and (a, b) not in ((169, 254), (192, 168))
        and (a, b, c) not in ((192, 0, 0), (192, 0, 2), (198, 51, 100), (203, 0, 113))
    )


def _ipv6(match: re.Match[str]) -> str:
    try:
        address = ipaddress.IPv6Address(match[0])
    except ValueError:
        return match[0]
    return match[0] if address in _DOCUMENTATION else IP


_DOCUMENTATION = ipaddress.IPv6Network("2001:db8::/32")
