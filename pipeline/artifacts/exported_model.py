"""ExportedModel: a Hugging Face directory below `model/` that `AutoModel` and `AutoTokenizer` open with no code of ours, and `lineage.json`.

`lineage.json` holds `base` (digest of the model it was trained from, null for a pretrained one) and `task` (null, or a name of `pipeline.tasks`).
"""

from __future__ import annotations

from pipeline.artifacts.artifact import Artifact

EXPORTED_MODEL = Artifact("exported_model", "a Hugging Face model directory")
BASELINE_MODEL = Artifact("baseline_model", "the same task model whose encoder was never pretrained")
