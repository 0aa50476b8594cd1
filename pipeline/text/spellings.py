"""The ways in which a language's code may be spelt in a path: what `{lang}` stands for."""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.errors import ConfigError
from pipeline.text.languages import lookup


def spellings(code: str) -> tuple[str, ...]:
    """Spellings of a canonical code, the likeliest first: itself, the UDHR's file name, ISO 639-3 with and without its script, aliases; each also with `_` for `-`
    and `-` for `_`. None means another language: `srp` is Serbian in Cyrillic letters, so `sr-Latn` is only `srp_Latn`."""
    language = lookup(code)
    others = [
        form for form in (f"{language.iso639_3}_{language.script}", language.iso639_3, *language.aliases) if _means(form, language.code)
    ]
    forms = [language.code, *([language.udhr] if language.udhr else []), *others]
    varied = [variant for form in forms for variant in (form, form.replace("-", "_"), form.replace("_", "-"))]
    return tuple(dict.fromkeys(varied))


def _means(spelling: str, code: str) -> bool:
    try:
        return lookup(spelling).code == code
    except ConfigError:
        return False


def spelling_table(codes: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The spellings of several languages, by canonical code."""
    return {code: spellings(code) for code in codes}
