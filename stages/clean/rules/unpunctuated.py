"""unpunctuated: lines that do not end as a sentence does, and lines cut off by an ellipsis, go; unit: the line.

Source: C4 (Raffel et al. 2020, section 2.2). An end mark of any script counts, also before closing quotes and brackets; in scripts whose sentences usually have none (Thai,
Lao, …) no line goes. Direction: what is left is prose; headings, lists, verse and tables are lost, so it is off by default, as FineWeb2 has it.
"""

from __future__ import annotations

from pipeline.text.languages import Language
from stages.clean.lines import ends_as_sentence, has_sentence_ends, without


def apply(text: str, language: Language | None) -> str:
    """The text without such lines."""
    if not has_sentence_ends(language):
        return text
    return without(text, lambda line: line.endswith(("...", "…")) or not ends_as_sentence(line, language))
