"""What can go wrong, as one tree; each leaf knows the exit code of the command line.

    PipelineError                 1
    ├── ConfigError               2   the file or an override is wrong, by itself or for the data and models at hand
    ├── PreflightError            3   the machine or cluster cannot do it; nothing was run
    │   └── MissingSourceError    3   an input is not there, or cannot be had
    ├── StageError                4   a stage failed
    │   ├── UnitError             4   one unit of work failed, named by its slice
    │   ├── QuarantineError       4   more was quarantined than the configuration allows
    │   ├── LedgerError           4   in ≠ kept + dropped + quarantined
    │   └── EmptyCorpusError      4   nothing is left to go on with
    ├── LockedError               5   another run holds the lease
    ├── IntegrityError            6   bytes are not those that were recorded
    ├── GateRefusedError          7   the challenger is not better than the champion
    └── InterruptedRunError     130   SIGINT (143: SIGTERM)

A message says what was found, what is allowed and what to do next. Every error pickles, since Ray carries
it from worker to driver: only positional string arguments and plain attributes.
"""

from __future__ import annotations

from typing import Any

EXIT_OK = 0


class PipelineError(Exception):
    """Root of all errors raised on purpose; `str(error)` is meant for the user."""

    exit_code = 1

    def __init__(self, message: str, **attributes: Any) -> None:
        super().__init__(message)
        self.message = message
        self.attributes = attributes
        for name, value in attributes.items():
            setattr(self, name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.message, self.attributes))

    def __str__(self) -> str:
        return self.message


def _rebuild(kind: type[PipelineError], message: str, attributes: dict[str, Any]) -> PipelineError:
    return kind(message, **attributes)


class ConfigError(PipelineError):
    """A mistake in the configuration, with its place."""

    exit_code = 2


class PreflightError(PipelineError):
    """The machine, cluster or environment cannot carry the run; found before it starts."""

    exit_code = 3


class MissingSourceError(PreflightError):
    """A source file, package or pattern does not exist or cannot be fetched."""


class StageError(PipelineError):
    """A stage failed; the message names it."""

    exit_code = 4


class UnitError(StageError):
    """A unit of work failed for a reason that no retry mends."""


class QuarantineError(StageError):
    """A source's quarantined share is above `quarantine.max_share`."""


class LedgerError(StageError):
    """The sums of a ledger do not add up: a fault of the program, never of the data."""


class EmptyCorpusError(StageError):
    """A stage was given, or would leave, no text at all."""


class LockedError(PipelineError):
    """Another live run holds the lease of this pipeline or output."""

    exit_code = 5


class IntegrityError(PipelineError):
    """A file's bytes differ from the digest recorded for it."""

    exit_code = 6


class GateRefusedError(PipelineError):
    """The new model is not better than the one in use, which stays."""

    exit_code = 7


class InterruptedRunError(PipelineError):
    """The run was asked to stop by a signal."""

    exit_code = 130
