"""Text rules: what is changed in a text before it is measured. A new rule is a new file here and a line in `RULES`.

A rule's module has `apply(text, language) -> str`, a pure function of the text and its `pipeline.text.languages.Language` (None where the language is
unknown). Its docstring says what it changes and from where the rule comes. A rule that leaves most texts as they are may also have `settled(data, offsets)`, which
finds those in a whole batch at once (see `pipeline.text.settled`), so that they do not pass through Python one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from pipeline.text.languages import Language

RULES = {
    "markup": "stages.clean.rules.markup",
    "normalise": "stages.clean.rules.normalise",
}

Rule = Callable[[str, Language | None], str]


def load(names: tuple[str, ...]) -> list[tuple[str, Rule]]:
    """The rules of these names, in this order; the configuration has checked that they are registered."""
    return [(name, import_module(RULES[name]).apply) for name in names]


def settled(names: tuple[str, ...], data: Any, offsets: Any) -> Any:
    """Which texts of a batch none of these rules would change, as far as a scan can tell; bool, shape (texts,), or None where a rule has no scan."""
    modules = [import_module(RULES[name]) for name in names]
    if not all(hasattr(module, "settled") for module in modules):
        return None
    scans = [module.settled for module in modules]
    found = scans[0](data, offsets)
    for scan in scans[1:]:
        found &= scan(data, offsets)
    return found
