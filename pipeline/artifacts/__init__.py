"""The artifact types, one file each: what a stage gives and another takes.

A type is a module-level `Artifact` with a name, a one-line meaning and, for tables, a function that builds its Arrow schema when first used
(so that importing this package loads no pyarrow). Units and dtypes stand in each file's docstring.

    Documents, Bitext, Decisions, Rejects, Card, Examples, Kept, Vocabulary, Tokens, Packing, Checkpoint, ExportedModel, Scores, Report
"""

from pipeline.artifacts.artifact import Artifact
from pipeline.artifacts.bitext import BITEXT
from pipeline.artifacts.card import CARD
from pipeline.artifacts.checkpoint import CHECKPOINT
from pipeline.artifacts.decisions import DECISIONS, PAIR_DECISIONS
from pipeline.artifacts.documents import DOCUMENTS
from pipeline.artifacts.examples import EXAMPLES, HELDOUT
from pipeline.artifacts.exported_model import BASELINE_MODEL, EXPORTED_MODEL
from pipeline.artifacts.kept import KEPT
from pipeline.artifacts.packing import PACKING, PAIR_PACKING
from pipeline.artifacts.rejects import REJECTS
from pipeline.artifacts.report import REPORT
from pipeline.artifacts.scores import SCORES
from pipeline.artifacts.tokens import PAIR_TOKENS, TOKENS
from pipeline.artifacts.vocabulary import VOCABULARY

__all__ = [
    "BASELINE_MODEL", "BITEXT", "CARD", "CHECKPOINT", "DECISIONS", "DOCUMENTS", "EXAMPLES", "EXPORTED_MODEL", "HELDOUT", "KEPT", "PACKING", "PAIR_DECISIONS", "PAIR_PACKING", "PAIR_TOKENS", "REJECTS", "REPORT", "SCORES",
    "TOKENS", "VOCABULARY", "Artifact",
]  # fmt: skip
