"""Tasks: one file each with its examples, their features and its feed; `scores.py` serves all."""

TASKS = {
    "classification": "pipeline.tasks.classification",
}
