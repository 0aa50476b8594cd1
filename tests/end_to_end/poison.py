"""Native code that dies at one text: put in the place of a function that a stage calls on a worker, and taken away again.

    infected(patch, Poison("clean.documents", "stages.clean.work.Measurer.measure", "segfault"))
        -> `map_units` sends `strike` to the workers in place of the phase's own function, under the same unit keys
        -> on the worker the target is wrapped, the phase's own function runs, and where the mark is among what the target is given, it dies

What it does: `memory` is an error of memory, which is quick since no process dies; `segfault` reads address 0; `hang` waits in C for ever with the
interpreter's lock held; `eat` allocates in C until there is no more, and aborts.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any
from unittest import mock

import numpy as np
import pytest

from pipeline import stage
from pipeline.task import Task, UnitResult, function_of
from pipeline.units import Phase, Unit, Workshop
from tests.end_to_end.repeats import MARK


@dataclass(frozen=True)
class Poison:
    """Where a text kills: in which phase (`stage.phase`), in which function (a dotted name), how, and which text."""

    phase: str
    target: str
    what: str = "memory"
    mark: str = MARK


def infected(patch: pytest.MonkeyPatch, poison: Poison) -> None:
    """Until `patch` is undone, units of the phase are worked with the poison in them."""
    original = stage.map_units

    def map_units(workshop: Workshop, phase: Phase, units: Sequence[Unit]) -> list[UnitResult]:
        if f"{workshop.stage}.{phase.name}" == poison.phase:
            given = {"function": phase.function, "target": poison.target, "what": poison.what, "mark": poison.mark}
            phase = replace(phase, function="tests.end_to_end.poison:strike", given={**phase.given, "poison": given})
        return original(workshop, phase, units)

    patch.setattr(stage, "map_units", map_units)


def strike(task: Task) -> None:
    """Worker: the phase's own function, with poison in its native code."""
    given = task.given["poison"]
    holder: Any = None
    module, _, name = given["target"].rpartition(".")
    try:
        holder = import_module(module)
    except ModuleNotFoundError:  # a method: the part before is a class
        above, _, kind = module.rpartition(".")
        holder = getattr(import_module(above), kind)
    original = getattr(holder, name)

    def deadly(*args: Any, **kwargs: Any) -> Any:
        if any(_holds(arg, given["mark"]) for arg in args):
            _die(given["what"])
        return original(*args, **kwargs)

    with mock.patch.object(holder, name, deadly):
        function_of(given["function"])(task)


def _holds(value: Any, mark: str) -> bool:
    if isinstance(value, np.ndarray):
        return value.dtype == np.uint8 and mark.encode() in value.tobytes()
    if isinstance(value, bytes):
        return mark.encode() in value
    return mark in (value if isinstance(value, str) else str(getattr(value, "text", "")))


def _die(what: str) -> None:
    library = ctypes.PyDLL(None)
    if what == "memory":
        raise MemoryError("no more")
    if what == "segfault":
        ctypes.string_at(0)
    elif what == "hang":
        while True:
            library.pause()
    elif what == "eat":
        library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
        for _ in range(256):
            place = library.malloc(16 << 20)
            if not place:
                library.abort()
            ctypes.memset(place, 1, 16 << 20)
    raise AssertionError(f"{what} did not kill")
