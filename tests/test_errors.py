"""Every error crosses from worker to driver whole, and knows its exit code."""

from __future__ import annotations

import pickle

import pytest

from pipeline import errors
from pipeline.errors import IntegrityError, PipelineError


def _tree(kind: type[PipelineError]) -> list[type[PipelineError]]:
    return [kind, *(found for child in kind.__subclasses__() for found in _tree(child) if found.__module__ == "pipeline.errors")]


@pytest.mark.parametrize("kind", _tree(PipelineError))
def test_an_error_pickles_with_its_class_message_and_attributes(kind: type[PipelineError]) -> None:
    error = pickle.loads(pickle.dumps(kind("what was found", path="a/b", count=3)))
    assert type(error) is kind
    assert str(error) == "what was found"
    assert (error.path, error.count, error.exit_code) == ("a/b", 3, kind.exit_code)


def test_an_exit_code_given_to_one_error_travels_with_it() -> None:
    error = pickle.loads(pickle.dumps(errors.InterruptedRunError("stopped", exit_code=143)))
    assert error.exit_code == 143
    assert errors.InterruptedRunError.exit_code == 130


def test_the_drawing_of_the_tree_names_each_error_with_its_code() -> None:
    drawn = {line.split()[-2]: int(line.split()[-1]) for line in _drawing()}
    assert drawn == {kind.__name__: kind.exit_code for kind in _tree(PipelineError)}


def _drawing() -> list[str]:
    rows = [line.strip("│├└─ ") for line in (errors.__doc__ or "").splitlines()]
    found = []
    for row in rows:
        words = row.split()
        if len(words) >= 2 and words[0].endswith("Error") and words[1].rstrip(":").isdigit():
            found.append(f"{words[0]} {words[1]}")
    return found


def test_an_error_is_caught_by_the_class_above_it() -> None:
    with pytest.raises(PipelineError):
        raise IntegrityError("damaged")
    assert issubclass(errors.QuarantineError, errors.StageError)
    assert issubclass(errors.MissingSourceError, errors.PreflightError)
