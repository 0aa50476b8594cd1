"""Objectives: what is to be predicted in a row. One file each, which holds `objective(**options)` and so fits `batches.Objective`."""

OBJECTIVES = {
    "mlm": "pipeline.training.objectives.masked",
}
