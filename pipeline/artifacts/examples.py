"""Examples: labelled or held-out text, for scoring and for decontamination.

id             string   stable within its set
set            string   name of the set (`heldout` for the held-out text)
split          string   train, dev or test
task           string   masked (held-out text), pair (a held-out translation) or a name of `pipeline.tasks`
lang           string   BCP-47 code; of a held-out pair two, "en-sw"
group          string   alignment group, null where there is none
text           string;  text_pair string, null where the task has one text
label          string   null where the task has none
decontaminate  bool     whether training text that overlaps it is dropped
document       binary(16)  the document or pair it was drawn from, null where it came from a file
"""

from __future__ import annotations

from typing import Any

from pipeline.artifacts.artifact import Artifact


def schema() -> Any:
    """Arrow schema of examples."""
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("set", pa.string(), nullable=False),
            pa.field("split", pa.string(), nullable=False),
            pa.field("task", pa.string(), nullable=False),
            pa.field("lang", pa.string(), nullable=False),
            pa.field("group", pa.string()),
            pa.field("text", pa.string(), nullable=False),
            pa.field("text_pair", pa.string()),
            pa.field("label", pa.string()),
            pa.field("decontaminate", pa.bool_(), nullable=False),
            pa.field("document", pa.binary(16)),
        ]
    )


EXAMPLES = Artifact("examples", "labelled text of the tasks", schema)
HELDOUT = Artifact("heldout", "text held out of training, drawn once and frozen", schema)
