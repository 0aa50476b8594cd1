"""The stages, one package each; a new stage is a new package and a line here.

A package's `__init__` declares the stage (see `pipeline.stage`) and imports nothing heavy; its work is imported inside `run`.
"""

STAGES = {
    "ingest": "stages.ingest",
    "clean": "stages.clean",
    "heldout": "stages.heldout",
    "examples": "stages.examples",
    "dedup": "stages.dedup",
    "card": "stages.card",
    "kept": "stages.kept",
    "vocabulary": "stages.vocabulary",
    "encode": "stages.encode",
    "pack": "stages.pack",
    "pretrain": "stages.pretrain",
    "export": "stages.export",
    "finetune": "stages.finetune",
    "evaluate": "stages.evaluate",
    "report": "stages.report",
}
