"""Text rules: what is changed in a text before it is measured. A new rule is a new file here and a line in `RULES`.

A rule's module has `apply(text, language) -> str`, a pure function of the text and its `pipeline.text.languages.Language` (None where the language is
unknown). Its docstring says what it changes and from where the rule comes.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from pipeline.text.languages import Language

RULES = {
    "markup": "stages.clean.rules.markup",
    "normalise": "stages.clean.rules.normalise",
}

Rule = Callable[[str, Language | None], str]


def load(names: tuple[str, ...]) -> list[tuple[str, Rule]]:
    """The rules of these names, in this order; the configuration has checked that they are registered."""
    return [(name, import_module(RULES[name]).apply) for name in names]
