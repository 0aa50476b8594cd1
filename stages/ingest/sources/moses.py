"""Moses: bitext as two files, line n of one the translation of line n of the other.

    path:  corpus.{lang}    Ona üzmə.            ->  Pair(0, 0, "az", "en", "Ona üzmə.", "Don't hurt her.")
    other: corpus.en        Don't hurt her.

Every file of `path` has one partner in `other`, which agrees with it in the language and in what each wildcard stands for (`stages.ingest.partners`).
Languages come from the last suffix (before `.txt` and that of a compression) unless `lang_a` and `lang_b` say. A blank line is a line: a pair with an
empty side is delivered, for the rules to drop and count, and a line that cannot be read takes its counterpart with it into quarantine.

Files of different length are not aligned, nobody knows from where on: reading stops with an error and nothing of them is used. Where a compressed side is
damaged, the rest of both is quarantined. Lines are counted from the head, so the two are one slice, however large; the output is cut.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import PurePosixPath
from typing import BinaryIO, Literal

from pydantic import model_validator

from pipeline.config import NonEmpty, outside
from pipeline.errors import ConfigError, StageError
from pipeline.text.languages import lookup
from stages.ingest.records import Damaged, Pair, Slice, SourceFile
from stages.ingest.sources.base import OpenRaw, SourceConfig, lines_from
from stages.ingest.streams import decode

_PACKED = (".gz", ".bz2", ".xz", ".zst", ".zstd", ".txt")


class Config(SourceConfig):
    """Two line-aligned files."""

    kind: Literal["moses"]
    """Two line-aligned files."""
    other: NonEmpty = outside(...)
    """Path of the second side, with the same wildcards as `path`, and `{lang}` only if `path` has it."""
    lang_a: NonEmpty | None = None
    """Language of the files of `path`; none takes it from their last suffix."""
    lang_b: NonEmpty | None = None
    """Language of the files of `other`; none takes it from their last suffix."""
    line_group: NonEmpty | None = None
    """A name for texts that are aligned line by line in many languages: the group of a pair is then `name:line`."""
    as_text: bool = False
    """Whether each side also serves as monolingual text."""

    @model_validator(mode="after")
    def _sides_are_known(self) -> Config:
        if self.lang is not None:
            raise ValueError("lang has no meaning for pairs; set lang_a and lang_b")
        if "{lang}" in self.other and "{lang}" not in self.path:
            raise ValueError("other has {lang} and path has not; give them the other way round")
        if len(re.findall(r"[*?\[]", self.path)) != len(re.findall(r"[*?\[]", self.other)):
            raise ValueError("other must have the same wildcards as path, so that it is known which files belong together")
        _sides(self, "xx")
        return self


def _side(path: str, stated: str | None, lang: str | None, field: str) -> str:
    """The language of one side.

    Raises:
        ValueError: neither the settings nor the path say.
    """
    if stated is not None:
        return stated
    name = PurePosixPath(path.partition("::")[0])
    while name.suffix.lower() in _PACKED:
        name = name.with_suffix("")
    suffix = name.suffix.removeprefix(".")
    if suffix == "{lang}" and lang is not None:
        return lang
    try:
        return lookup(suffix).code
    except ConfigError:
        raise ValueError(f"the language of {path} is not known: set {field}") from None


def _sides(config: Config, lang: str | None) -> tuple[str, str]:
    return _side(config.path, config.lang_a, lang, "lang_a"), _side(config.other, config.lang_b, lang, "lang_b")


def languages_of(file: SourceFile, config: Config) -> tuple[str, ...] | None:
    """Those of the two sides."""
    return _sides(config, file.lang)


def slices(file: SourceFile, config: Config, max_bytes: int) -> list[Slice]:
    """Both files whole."""
    return [Slice()]


def read(open_raw: OpenRaw, file: SourceFile, part: Slice, config: Config) -> Iterator[Pair | Damaged]:
    """The pairs, in the order of the lines; `open_raw` is given the partner's URL for the second side.

    Raises:
        StageError: one file has more lines than the other.
    """
    assert file.partner is not None, "a Moses file comes with its partner"
    partner = file.partner
    lang_a, lang_b = _sides(config, file.lang)
    with open_raw() as raw_a, open_raw(partner.url) as raw_b:
        lines_a, lines_b = _lines(raw_a, file, config), _lines(raw_b, partner, config)
        end = 0  # of what was read of the first file
        for number, (a, b) in enumerate(zip_longest(lines_a, lines_b), 1):
            if isinstance(a, Damaged) and a.rest_of_stream:
                yield a
                return
            if isinstance(b, Damaged) and b.rest_of_stream:
                yield _rest(b, end if a is None else _offset(a), file, partner)
                return
            if a is None or b is None:
                names = [each.name.partition("/")[2] or each.name for each in (file, partner)]
                short, long = names if a is None else reversed(names)
                raise StageError(
                    f"source {names[0]} and {names[1]}: not aligned: {short} ends with line {number - 1}, {long} goes on with line {number}. "
                    "Nothing of them was used; mend them, or take them out of the source."
                )
            offset = end = _offset(a)
            if isinstance(a, Damaged) or isinstance(b, Damaged):
                bad, name = (a, file.name) if isinstance(a, Damaged) else (b, partner.name)
                assert isinstance(bad, Damaged)
                yield Damaged(offset, bad.length, bad.reason, False, f"line {number} of {name}: {bad.detail}")
                continue
            end += len(a[1]) + 1
            group = None if config.line_group is None else f"{config.line_group}:{number}"
            text_a, text_b = decode(a[1], offset), decode(b[1], offset)
            if isinstance(text_a, str) and isinstance(text_b, str):
                yield Pair(offset, 0, lang_a, lang_b, text_a, text_b, group, config.licence)
            else:
                yield text_a if isinstance(text_a, Damaged) else text_b if isinstance(text_b, Damaged) else Damaged(offset, None, "corrupt")


def _lines(raw: BinaryIO, file: SourceFile, config: Config) -> Iterator[tuple[int, bytes] | Damaged]:
    return lines_from(raw, file, config, 0)


def _offset(item: tuple[int, bytes] | Damaged) -> int:
    return item.offset if isinstance(item, Damaged) else item[0]


def _rest(damage: Damaged, offset: int, file: SourceFile, partner: SourceFile) -> Damaged:
    """Damage of the second side as what it costs of the first: the same share of its bytes."""
    stored = None if damage.stored_offset is None else file.size * damage.stored_offset // max(1, partner.size)
    return Damaged(offset, None, damage.reason, True, f"{partner.name}: {damage.detail}", stored)
