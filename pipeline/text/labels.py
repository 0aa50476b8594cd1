"""What the labels of the models mean: pycld2's and py3langid's names of languages as our canonical codes."""

from __future__ import annotations

from functools import cache

from pipeline.errors import ConfigError
from pipeline.text.languages import lookup

UNDETERMINED = "und"
"""What no model could name."""

_PYCLD2_OWN_CODES = {"sr-ME": "cnr", "tlh": None, "xxx": None, "un": None, "zxx": None}


@cache
def canonical(label: str) -> str | None:
    """A model's label as our code; None where it names no language."""
    label = _PYCLD2_OWN_CODES.get(label, label) or "xx-"
    if label.startswith(("xx-", "zz", "zxx")):
        return None
    try:
        return lookup(label).code
    except ConfigError:
        return None
