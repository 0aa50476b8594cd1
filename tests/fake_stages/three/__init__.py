"""Takes documents and trains on them with a global batch."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.artifacts import DOCUMENTS, REPORT
from pipeline.config import Section
from pipeline.stage import Context, Grade, Input, Output, Slot, Summary


class Config(Section):
    """Settings of the fake."""

    global_batch: int = 32
    """Examples of a step."""


VERSION = 1
LIBRARIES: tuple[str, ...] = ()
GRADE = Grade.EXACT
INPUTS = {"documents": Slot(DOCUMENTS, "one")}
OUTPUT = {"report": REPORT}


def run(config: Config, inputs: Mapping[str, Input], output: Output, context: Context) -> Summary:
    with output.file("report", "report.json") as path:
        path.write_text(str(config.global_batch))
    return Summary()
