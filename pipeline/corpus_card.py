"""A corpus's card for reading in a terminal: a table of the languages, the reasons, the samples.

card.json -> one view a part; `lang` keeps what is of that language (or of a pair with it)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

Table = tuple[Sequence[str], Sequence[Sequence[Any]]]
HEADER = (
    "",
    "in",
    "kept",
    "dropped",
    "quarantined",
    "bytes in",
    "characters in",
    "words in",
    "characters kept",
    "words kept",
    "duplicate %",
    "near %",
)
PAIR_HEADER = ("", "in", "kept", "dropped", "quarantined", "bytes in", "characters in", "characters kept", "duplicate %", "near %")
_NAMES = {
    "bytes in": "bytes_in",
    "characters in": "characters_in",
    "words in": "words_in",
    "characters kept": "characters_kept",
    "words kept": "words_kept",
}


def tables(card: Mapping[str, Any], lang: str | None, rows: int) -> dict[str, Callable[[], Iterator[str | Table]]]:
    """Name of a part -> lines and tables of it."""
    parts: dict[str, Callable[[], Iterator[str | Table]]] = {"languages": lambda: _languages(card, HEADER, lang)}
    pairs = card.get("pairs", {"languages": {}})
    if pairs["languages"]:
        parts["pairs"] = lambda: _languages(pairs, PAIR_HEADER, lang)
    parts["reasons"] = lambda: _reasons(card, lang)
    parts["samples"] = lambda: _samples(card, lang, rows)
    return parts


def is_of(name: str, lang: str | None) -> bool:
    """Whether a language, or a pair of languages, is asked for."""
    return lang is None or name == lang or name.startswith(f"{lang}-") or name.endswith(f"-{lang}")


def _languages(body: Mapping[str, Any], header: Sequence[str], lang: str | None) -> Iterator[str | Table]:
    found = [_row(name, row, header) for name, row in body["languages"].items() if is_of(name, lang)]
    if lang is None:
        found.append(_row("all", body["all"], header))
    yield header, found


def _row(name: str, row: Mapping[str, Any], header: Sequence[str]) -> list[Any]:
    figures = {
        "": name, "in": row["in"], "kept": row["kept"], "dropped": sum(row["dropped"].values()), "quarantined": sum(row["quarantined"].values()),
        "duplicate %": f"{row['duplicate_share'] / 100:.2f}", "near %": f"{row['near_duplicate_share'] / 100:.2f}",
    }  # fmt: skip
    return [figures[column] if column in figures else row[_NAMES[column]] for column in header]


def _reasons(card: Mapping[str, Any], lang: str | None) -> Iterator[str | Table]:
    found = []
    for kind, body in (("documents", card), ("pairs", card.get("pairs", {"languages": {}}))):
        for what in ("dropped", "quarantined"):
            counts: dict[str, list[tuple[int, str]]] = {}
            for name, row in body["languages"].items():
                if is_of(name, lang):
                    for reason, count in row[what].items():
                        counts.setdefault(reason, []).append((count, name))
            for reason, by_lang in sorted(counts.items(), key=lambda item: (-sum(count for count, _ in item[1]), item[0])):
                most = ", ".join(f"{name} {count}" for count, name in sorted(by_lang, key=lambda entry: (-entry[0], entry[1]))[:5])
                found.append([f"{kind} {what}: {reason}", sum(count for count, _ in by_lang), len(by_lang), most])
    yield ("", "records", "languages", "most in"), found
    for before, row in card["relabelled"].items():
        if is_of(before, lang):
            yield f"relabelled {before} → " + ", ".join(f"{after} {count}" for after, count in row.items())


def _samples(card: Mapping[str, Any], lang: str | None, rows: int) -> Iterator[str | Table]:
    for kind, by_reason in card["samples"].items():
        for reason, found in by_reason.items():
            mine = [sample for sample in found if is_of(sample["lang"], lang)][:rows]
            if mine:
                yield f"{kind}, {reason}:"
            for sample in mine:
                text = " | ".join(sample[name] for name in ("text", "text_a", "text_b") if name in sample)
                yield f"  {sample['lang']}  {sample['source']} byte {sample['offset']}  {text}"
