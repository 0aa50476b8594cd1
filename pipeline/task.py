"""A work unit on its worker: what its function gets, and how its files and record are published.

`execute` runs in a Ray task over a batch of units (see `pipeline.units` for the driver's side). A unit's files and its record lie at
`units/<stage>/<phase>/<key>.*`; the record is written last, and its existence means that the unit is done.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline.errors import IntegrityError
from pipeline.failpoint import failpoint
from pipeline.footprint import at_most, let_go
from pipeline.ledger import Ledger
from pipeline.manifest import Shard
from pipeline.storage import Published, Storage, canonical, digest

if TYPE_CHECKING:
    from pipeline.tables import CutTable

T = TypeVar("T")


@dataclass(frozen=True)
class UnitResult:
    """What a unit gave: its files by name, its ledger, its counts. `worked` is false where it was found done."""

    key: str
    files: Mapping[str, Shard]
    ledger: Ledger
    counts: Mapping[str, Any]
    poison: tuple[int, ...]
    poisoned: tuple[str, ...] = ()
    """What the records of `poison` are called: a document's id, or source and offset; in the order of their numbers."""
    worked: bool = False

    def parts(self, name: str) -> list[Shard]:
        """The files of a table that was cut (`Task.cut_table`), in order."""
        found = [self.files[name]]
        while (part := self.files.get(f"{name}-{len(found)}")) is not None:
            found.append(part)
        return found


def unit_path(stage: str, phase: str, key: str, name: str) -> str:
    """Where a unit's file or record lies, relative to the storage root."""
    return f"units/{stage}/{phase}/{key[:2]}/{key}.{name}"


def find(storage: Storage, stage: str, phase: str, key: str) -> UnitResult | None:
    """A finished unit, or None; a record that is damaged, or whose files are gone or have another size, counts as none."""
    try:
        written = storage.read_json(unit_path(stage, phase, key, "json"))
        if written is None:
            return None
        plain = {name: value for name, value in written.items() if name != "sha256"}
        if digest(plain) != written["sha256"]:
            return None
        files = {name: Shard(**entry) for name, entry in plain["files"].items()}
        names = tuple(plain.get("poisoned", ()))
        found = UnitResult(key, files, Ledger.from_plain(plain["ledger"]), plain["counts"], tuple(plain["poison"]), names)
    except (IntegrityError, KeyError, TypeError, AttributeError):
        return None
    return found if all(storage.size(shard.path) == shard.bytes for shard in files.values()) else None


@dataclass(frozen=True)
class Apart:
    """What of a unit is set apart: records that kill when they are worked (`skip`, their numbers), and steps of reading that kill (`cut`)."""

    skip: tuple[int, ...] = ()
    cut: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.skip) + len(self.cut)


NONE_APART = Apart()


@dataclass(frozen=True)
class Trial:
    """A run that publishes nothing: takes at most `until` steps of reading (None: all), works the records from `low` to before `high`."""

    low: int
    high: int
    until: int | None = None


class Task:
    """A unit on its worker: reads `argument`, `settings` and `given`, writes files, fills `ledger` and `counts`.

    A function that goes through its records with `records` can be split when one of them kills the worker, whatever it does with them: it may
    work a whole batch at once, as long as it works none but those that were passed on.
    """

    def __init__(
        self, storage: Storage, stage: str, phase: str, key: str, unit: str, argument: dict[str, Any], settings: dict[str, Any],
        given: dict[str, Any], apart: Apart, trial: Trial | None,
    ) -> None:  # fmt: skip
        self.storage, self.argument, self.settings, self.given = storage, argument, settings, given
        self.ledger = Ledger(unit)
        self.counts: dict[str, Any] = {}
        self.seen = 0
        self.steps = 0  # what was asked for by `records`: each record, and the end of each run of them
        self._stage, self._phase, self._key = stage, phase, key
        self._apart, self._trial = apart, trial
        self._poisoned: dict[int, str] = {}
        self._files: dict[str, tuple[Path, int, str]] = {}
        self._scratch = Path(tempfile.mkdtemp(prefix="unit-")) if trial is not None else None

    def records(
        self, items: Iterable[T], lang: Callable[[T], str], name: Callable[[T], str] | None = None, where: str = "its records"
    ) -> Iterator[T]:
        """Pass the records on, but for those that kill: they are quarantined in the ledger as `poison`.

        Where the reading of a record kills, so that nothing behind it can be reached, the rest of `items` is quarantined in its place. `name` says
        what a record is called, and `where` what `items` are, so that whoever reads of the quarantine finds it.
        """
        reader = iter(items)
        last: T | None = None
        while self._trial is None or self._trial.until is None or self.steps < self._trial.until:
            number = self.seen
            self.steps += 1
            if self.steps - 1 in self._apart.cut:
                self._set_apart("und", f"all of {where}" if last is None or name is None else f"what follows {name(last)}")
                return
            try:
                item = last = next(reader)
            except StopIteration:
                return
            if number in self._apart.skip:
                self._set_apart(lang(item), name(item) if name is not None else "")
                continue
            self.seen += 1
            if self._trial is None or self._trial.low <= number < self._trial.high:
                yield item

    def _set_apart(self, lang: str, name: str) -> None:
        self.ledger.quarantine(lang, "poison")
        self._poisoned[self.seen] = name
        self.seen += 1

    @contextmanager
    def table(self, name: str, schema: Any, *, compression: str | None = None, one_batch: bool = False) -> Iterator[Any]:
        """Write an Arrow file `<key>.<name>.arrow`; yields a `TableWriter`. With `one_batch` a mapped column is one run of memory."""
        from pipeline.tables import ROWS_PER_BATCH, write_table

        path = self._place(f"{name}.arrow")
        self._files[name] = (path, 0, f"{name}.arrow")  # so that `clear` finds it if writing fails
        rows_per_batch = sys.maxsize if one_batch else ROWS_PER_BATCH
        with write_table(path, schema, compression=compression, rows_per_batch=rows_per_batch) as writer:
            yield writer
        self._files[name] = (path, writer.rows, f"{name}.arrow")

    def cut_table(self, name: str, schema: Any, max_bytes: int) -> CutTable:
        """Write Arrow files `<key>.<name>.arrow`, `<key>.<name>-1.arrow`, … of at most `max_bytes` of text each (a longer row has one of its own)."""
        from pipeline.tables import CutTable

        return CutTable(lambda number: self.table(f"{name}-{number}" if number else name, schema), schema, max_bytes)

    @contextmanager
    def file(self, name: str) -> Iterator[Path]:
        """Write any other file `<key>.<name>`."""
        path = self._place(name)
        self._files[name] = (path, 0, name)
        yield path

    def _place(self, name: str) -> Path:
        return self._scratch / name if self._scratch is not None else self.storage.temporary()

    def publish(self) -> None:
        """Publish the files, then the record; in a trial, nothing."""
        if self._trial is not None:
            return
        shards = {}
        for name, (path, rows, suffix) in sorted(self._files.items()):
            published = self.storage.publish(path, unit_path(self._stage, self._phase, self._key, suffix))
            failpoint(f"{self._stage}.{self._phase}.after_file")
            shards[name] = _shard(self._key, published, rows)
        record = {
            "key": self._key,
            "stage": self._stage,
            "phase": self._phase,
            "files": {name: shard.plain() for name, shard in shards.items()},
            "ledger": self.ledger.plain(),
            "counts": self.counts,
            "poison": sorted(self._poisoned),
        }
        if self._poisoned:
            record["poisoned"] = [self._poisoned[number] for number in sorted(self._poisoned)]
        as_read = json.loads(canonical(record))  # names of numbers have become text
        failpoint(f"{self._stage}.{self._phase}.before_record")
        self.storage.write_json(unit_path(self._stage, self._phase, self._key, "json"), {**record, "sha256": digest(as_read)})
        failpoint(f"{self._stage}.{self._phase}.after_record")

    def clear(self) -> None:
        """Remove whatever temporary file is left."""
        for path, _, _ in self._files.values():
            path.unlink(missing_ok=True)
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)


def _shard(key: str, published: Published, rows: int) -> Shard:
    return Shard(key, published.path, published.sha256, published.bytes, rows)


def function_of(name: str) -> Callable[[Task], None]:
    """The function named `module:name`, of this project only.

    Raises:
        ValueError: the name is not of a module of `pipeline`, `stages` or `tests`.
    """
    module, _, attribute = name.partition(":")
    if module.split(".")[0] not in ("pipeline", "stages", "tests"):
        raise ValueError(f"{name}: only functions of this project run on workers")
    found: Callable[[Task], None] = getattr(import_module(module), attribute)
    return found


def execute(argument: dict[str, Any]) -> dict[str, Any]:
    """Work a batch of units; runs on a Ray worker. Returns the number of records read, and of steps taken, for trials."""
    storage = Storage.at(argument["root"], argument["attempt"])
    function = function_of(argument["function"])
    apart = Apart(tuple(argument["skip"]), tuple(argument["cut"]))
    trial = None if argument["trial"] is None else Trial(*argument["trial"])
    storage.write(argument["started"], b"")
    records = steps = 0
    for unit in argument["units"]:
        key = unit["key"]
        if trial is None and find(storage, argument["stage"], argument["phase"], key) is not None:
            continue
        task = Task(
            storage, argument["stage"], argument["phase"], key, argument["unit"], unit["argument"], argument["settings"], argument["given"],
            apart, trial,
        )  # fmt: skip
        failpoint(f"{argument['stage']}.{argument['phase']}.start")
        try:
            with at_most(argument["memory_bytes"]):
                function(task)
            if trial is None:
                task.ledger.check(f"{argument['stage']} {argument['phase']}: {unit['label']}")
            task.publish()
        finally:
            task.clear()
        records, steps = records + task.seen, steps + task.steps
    let_go()
    return {"records": records, "steps": steps}
