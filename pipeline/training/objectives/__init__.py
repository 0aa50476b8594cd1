"""Objectives: what is to be predicted. One file each; those that predict tokens of a row hold `objective(**options)` and so fit `batches.Objective`.

    mlm       hidden tokens of packed text
    tlm       hidden tokens of packed translation pairs, whose sides see each other
    clm       each token of packed text from those before it
    nsp       whether a segment goes on where another ends
    contrast  the translation of a sentence among those of the whole global batch

`pipeline.training.mixing` gives each step to one of them.
"""

OBJECTIVES = {
    "mlm": "pipeline.training.objectives.masked",
    "tlm": "pipeline.training.objectives.translation",
    "clm": "pipeline.training.objectives.causal",
    "nsp": "pipeline.training.objectives.next_sentence",
    "contrast": "pipeline.training.objectives.contrast",
}

ON_PAIRS = frozenset({"tlm", "contrast"})
"""Those that read translation pairs."""
