"""Text rules: what is changed in a text before it is measured. A new rule is a new file here and a line in `RULES`.

A rule's module has

    apply      (text, language) -> str: a pure function of the text and its `pipeline.text.languages.Language` (None where the language is unknown)
    TOUCHES    (optional) a gate: a text in which it is not found is one that the rule cannot change, and is never handed to it. Either substrings
               (a tuple) or one regular expression in RE2's syntax (a string), searched for in a whole batch at a time
    count      (optional) (before, after) -> {name: number}: what the manifest counts besides the texts changed and the lines removed

and a docstring that says what it changes, its source, its direction (what goes, what stays) and its unit. No rule removes a combining mark but
with the whole line or the whole match that it stands in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module

from pipeline.text.languages import Language

RULES = {
    "markup": "stages.clean.rules.markup",
    "mojibake": "stages.clean.rules.mojibake",
    "controls": "stages.clean.rules.controls",
    "boilerplate": "stages.clean.rules.boilerplate",
    "navigation": "stages.clean.rules.navigation",
    "unpunctuated": "stages.clean.rules.unpunctuated",
    "pii": "stages.clean.rules.pii",
    "phones": "stages.clean.rules.phones",
    "normalise": "stages.clean.rules.normalise",
}

DEFAULT = ("markup", "mojibake", "controls", "pii", "normalise")
"""The rules of a file that names none."""


@dataclass(frozen=True)
class Rule:
    """A rule as its module has it."""

    name: str
    apply: Callable[[str, Language | None], str]
    touches: str | tuple[str, ...] | None
    count: Callable[[str, str], Mapping[str, int]] | None


def load(names: tuple[str, ...]) -> list[Rule]:
    """The rules of these names, in this order; the configuration has checked that they are registered."""
    found = []
    for name in names:
        module = import_module(RULES[name])
        found.append(Rule(name, module.apply, getattr(module, "TOUCHES", None), getattr(module, "count", None)))
    return found
