"""Work units on a real local Ray: the same bytes for any number of workers, any death, any order."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline import cluster as clusters
from pipeline import failpoint as failpoints
from pipeline import units
from pipeline.cluster import Cluster, NodeLost
from pipeline.errors import EmptyCorpusError, LedgerError, QuarantineError, StageError, UnitError
from pipeline.ledger import total
from pipeline.storage import Storage, digest
from pipeline.tables import rows
from pipeline.task import Task, UnitResult, execute, find, function_of, unit_path
from pipeline.units import Phase, Unit, Workshop, batches, map_units, unit_key

ROOT = Path(__file__).resolve().parent.parent
SCHEMA = pa.schema([pa.field("n", pa.int64(), nullable=False), pa.field("text", pa.string(), nullable=False)])


# What runs on workers


def work(task: Task) -> None:
    """Writes each record of its slice; what `given["trouble"]` says happens at a record or before all of them."""
    trouble = task.given.get("trouble", "")
    os.environ.pop("PIPELINE_FAILPOINT", None)
    failpoints._passages.clear()  # Ray keeps its workers from test to test
    os.environ.update(task.given.get("environment", {}))
    if trouble == "at the start" and task.argument["first"] == 10:
        happen(task)
    with task.table("rows", SCHEMA) as table:
        for number in task.records(range(task.argument["first"], task.argument["last"]), lambda _: "en"):
            if trouble == "at a record" and number in task.given["numbers"]:
                happen(task)
            table.row({"n": number, "text": f"{task.settings['word']} {number}"})
            if number % 7 == 6:
                task.ledger.drop("en", "seventh")
            else:
                task.ledger.keep("en")
    with task.file("note.txt") as path:
        path.write_text(f"{task.argument['first']}\n")
    task.counts["first"] = task.argument["first"]


def happen(task: Task) -> None:
    what, once = task.given["what"], task.given.get("once")
    if once is not None:
        try:
            Path(once).open("x").close()
        except FileExistsError:
            return
    with Path(task.given["log"]).open("a") as file:
        file.write(f"{task.argument['first']}\n")
    if what == "leave":
        os._exit(7)
    elif what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "memory":
        raise MemoryError("no more")
    elif what == "hang":
        time.sleep(600)
    elif what == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif what == "empty":
        raise EmptyCorpusError("nothing is left of it", kept=0)
    elif what == "bug":
        raise ZeroDivisionError("a fault of the program")
    elif what.startswith("errno:"):
        number = int(what.partition(":")[2])
        raise OSError(number, os.strerror(number))


def unbalanced(task: Task) -> None:
    task.ledger.account("en").taken += 1


def without_records(task: Task) -> None:
    os._exit(7)


def too_heavy_together(task: Task) -> None:
    seen = list(task.records(range(8), lambda _: "en"))
    if len(seen) > 5:
        os._exit(7)


def reads(task: Task) -> None:
    """Two files of five records; what kills is the reading of a record, or the work on all that were passed on."""
    for name in ("a", "b"):
        records = task.records(reader(task, name), lambda _: "en", lambda item: f"{item[0]}.txt at {item[1]}", f"{name}.txt")
        batch = list(records)
        if task.given["trouble"] == "in a batch" and any(item in task.given["places"] for item in map(list, batch)):
            happen(task)
        if batch:
            task.ledger.keep("en", len(batch))
        task.counts[name] = [number for _, number in batch]


def reader(task: Task, name: str) -> Iterator[tuple[str, int]]:
    for number in range(5):
        if task.given["trouble"] == "in reading" and [name, number] in task.given["places"]:
            happen(task)
        yield name, number


def grows(task: Task) -> None:
    """Native code that asks for memory without end, and ends its process when there is none."""
    taken = list(task.records(range(4), lambda _: "en"))
    if 2 in taken:
        library = ctypes.PyDLL(None)
        library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
        for _ in range(200):
            place = library.malloc(16 << 20)
            if not place:
                library.abort()
            ctypes.memset(place, 1, 16 << 20)
        raise AssertionError("3 GiB were granted")
    if taken:
        task.ledger.keep("en", len(taken))


def careful(task: Task) -> None:
    """Sleeps at its only record, so that others wait behind it."""
    for number in task.records([task.argument["first"]], lambda _: "en"):
        time.sleep(task.given["seconds"].get(str(number), 0))
        task.ledger.keep("en")


# The driver's side


def slices(count: int, each: int = 10) -> list[Unit]:
    return [
        Unit(digest(["slice", number]), {"first": number * each, "last": (number + 1) * each}, 100, f"corpus.txt#{number}")
        for number in range(count)
    ]


def phase(function: str = "work", **given: Any) -> Phase:
    return Phase("map", f"tests.test_units:{function}", {"word": "word"}, "documents", given=given)


def workshop(
    root: Path, cluster: Callable[[], Cluster], *, max_poison: int = 0, deadline_s: float = 120.0, attempt: str = "a1"
) -> Workshop:
    return Workshop(Storage.at(str(root), attempt), "clean", 1, {"pyarrow": "25"}, cluster, deadline_s, max_poison, "clean")


def published(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted((root / "units").rglob("*")) if path.is_file()}


def leftovers(root: Path) -> list[str]:
    return [str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and "units" not in path.relative_to(root).parts[:1]]


def never() -> Cluster:
    raise AssertionError("no cluster is needed where nothing is to do")


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What twelve undisturbed units publish, made in this process without Ray."""
    root = tmp_path_factory.mktemp("expected")
    storage, given_phase = Storage.at(str(root), "a0"), phase()
    shop = workshop(root, never)
    for unit in slices(12):
        entry = {"key": unit_key(shop, given_phase, unit), "argument": dict(unit.argument), "label": unit.label}
        execute(argument(storage, [entry]))
    return published(root)


def argument(storage: Storage, entries: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    return {
        "root": storage.root, "attempt": storage.attempt, "started": f"tmp/{storage.attempt}/started/0", "stage": "clean", "phase": "map",
        "function": "tests.test_units:work", "settings": {"word": "word"}, "given": {}, "unit": "documents", "units": entries, "skip": [], "cut": [],
        "trial": None, "memory_bytes": None, **changes,
    }  # fmt: skip


def check_results(root: Path, found: Sequence[UnitResult], count: int) -> None:
    assert [result.counts["first"] for result in found] == [number * 10 for number in range(count)]
    seen = [row["n"] for result in found for row in rows(root / result.files["rows"].path)]
    assert seen == list(range(count * 10))
    ledger = total((result.ledger for result in found), "documents")
    ledger.check("all", count * 10)


@pytest.mark.fault("R1")
def test_one_worker_two_workers_and_none_give_the_same_bytes(
    cluster: Cluster, tmp_path: Path, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    for workers in (1, 2):
        monkeypatch.setattr(cluster, "workers", workers)
        found = map_units(workshop(tmp_path / str(workers), lambda: cluster), phase(), slices(12))
        check_results(tmp_path / str(workers), found, 12)
        assert all(result.worked for result in found)
        assert published(tmp_path / str(workers)) == expected
        assert leftovers(tmp_path / str(workers)) == []


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.fault("R1")
def test_the_order_of_the_units_changes_nothing(
    cluster: Cluster, tmp_path: Path, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setenv("PIPELINE_UNIT_ORDER", f"shuffle:{seed}")
    found = map_units(workshop(tmp_path, lambda: cluster), phase(), slices(12))
    check_results(tmp_path, found, 12)
    assert published(tmp_path) == expected


@pytest.mark.fault("R2")
def test_the_second_time_no_task_runs_and_nothing_is_written(cluster: Cluster, tmp_path: Path) -> None:
    first = map_units(workshop(tmp_path, lambda: cluster), phase(), slices(4))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    again = map_units(workshop(tmp_path, never, attempt="a2"), phase(), slices(4))
    assert [(result.key, result.files, result.ledger, result.counts) for result in again] == [
        (result.key, result.files, result.ledger, result.counts) for result in first
    ]
    assert not any(result.worked for result in again)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_only_new_changed_or_lost_units_are_worked(cluster: Cluster, tmp_path: Path) -> None:
    shop = workshop(tmp_path, lambda: cluster)
    first = map_units(shop, phase(), slices(4))
    (tmp_path / first[1].files["rows"].path).write_bytes(b"cut")
    (tmp_path / unit_path("clean", "map", first[2].key, "json")).write_bytes(b"{cut")
    changed = tmp_path / unit_path("clean", "map", first[3].key, "json")
    changed.write_bytes(changed.read_bytes().replace(b'"rows":', b'"rows":1', 1))
    again = map_units(shop, phase(), slices(5))
    assert [result.worked for result in again] == [False, True, True, True, True]
    check_results(tmp_path, again, 5)


def test_units_of_the_same_content_are_worked_once_and_given_twice(cluster: Cluster, tmp_path: Path) -> None:
    one, two = slices(2)
    found = map_units(workshop(tmp_path, lambda: cluster), phase(), [one, two, one])
    assert found[0] == found[2] != found[1]
    assert len(list(tmp_path.rglob("*.json"))) == 2


def test_the_key_holds_what_shapes_the_output_and_nothing_else(tmp_path: Path) -> None:
    unit = slices(1)[0]
    base = unit_key(workshop(tmp_path, never), phase(), unit)
    elsewhere = workshop(tmp_path / "b", never, deadline_s=5, max_poison=9, attempt="z")
    renamed = Unit(unit.content, {"first": 9}, 5, "another name")
    assert unit_key(elsewhere, phase(path="/elsewhere"), renamed) == base
    shop = workshop(tmp_path, never)
    others = [
        unit_key(shop, Phase("map", "tests.test_units:work", {"word": "other"}, "documents"), unit),
        unit_key(shop, Phase("reduce", "tests.test_units:work", {"word": "word"}, "documents"), unit),
        unit_key(shop, Phase("map", "tests.test_units:work", {"word": "word"}, "documents", side=("x",)), unit),
        unit_key(shop, phase(), slices(2)[1]),
    ]
    assert len({base, *others}) == 5


def test_small_units_go_in_batches_but_every_worker_gets_some() -> None:
    todo = {str(number): Unit("c", {}, 100, "l") for number in range(200)}
    made = batches(todo, 2)
    assert [key for batch in made for key in batch] == list(todo)
    assert max(map(len, made)) == units.BATCH_UNITS
    assert [len(batch) for batch in batches(dict(list(todo.items())[:6]), 4)] == [1] * 6
    large = {str(number): Unit("c", {}, units.BATCH_BYTES, "l") for number in range(40)}
    assert [len(batch) for batch in batches(large, 1)] == [1] * 40


# Errors


def test_an_error_raised_on_purpose_arrives_as_it_is(cluster: Cluster, tmp_path: Path) -> None:
    given = phase(trouble="at the start", what="empty", log=str(tmp_path / "log"))
    with pytest.raises(EmptyCorpusError, match="nothing is left of it") as caught:
        map_units(workshop(tmp_path / "root", lambda: cluster), given, slices(3))
    assert caught.value.attributes == {"kept": 0}


def test_any_other_error_names_the_unit_that_failed_even_inside_a_batch(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(units, "batches", lambda todo, workers: [list(todo)])
    given = phase(trouble="at the start", what="bug", log=str(tmp_path / "log"))
    with pytest.raises(UnitError, match=r"^clean: corpus\.txt#1: ZeroDivisionError: a fault of the program$"):
        map_units(workshop(tmp_path / "root", lambda: cluster), given, slices(4))
    assert "in happen" in caplog.text
    assert (tmp_path / "log").read_text() == "10\n"
    assert leftovers(tmp_path / "root") == []


def test_a_transient_error_of_the_file_system_is_tried_again(cluster: Cluster, tmp_path: Path, expected: dict[str, bytes]) -> None:
    given = phase(trouble="at the start", what=f"errno:{errno.EIO}", log=str(tmp_path / "log"), once=str(tmp_path / "once"))
    map_units(workshop(tmp_path / "root", lambda: cluster), given, slices(12))
    assert published(tmp_path / "root") == expected
    assert (tmp_path / "log").read_text() == "10\n"


def test_a_transient_error_that_stays_ends_the_stage(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "TRANSIENT_TRIES", 2)
    given = phase(trouble="at the start", what=f"errno:{errno.EIO}", log=str(tmp_path / "log"))
    with pytest.raises(UnitError, match=r"corpus\.txt#1: .*Input/output error"):
        map_units(workshop(tmp_path / "root", lambda: cluster), given, slices(2))
    assert len((tmp_path / "log").read_text().split()) == 3


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
@pytest.mark.fault("I3")
def test_a_full_or_locked_disk_is_not_tried_again(cluster: Cluster, tmp_path: Path, number: int) -> None:
    given = phase(trouble="at the start", what=f"errno:{number}", log=str(tmp_path / "log"))
    with pytest.raises(UnitError) as caught:
        map_units(workshop(tmp_path / "root", lambda: cluster), given, slices(2))
    assert "corpus.txt#1: " in str(caught.value)
    assert os.strerror(number) in str(caught.value)
    assert (tmp_path / "log").read_text() == "10\n"


def test_sums_that_do_not_add_up_are_found_on_the_worker(cluster: Cluster, tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match=r"clean map: corpus\.txt#0: en: 1 documents in, but 1 of them unaccounted"):
        map_units(workshop(tmp_path, lambda: cluster), phase("unbalanced"), slices(1))
    assert not (tmp_path / "units").exists()


def test_only_functions_of_this_project_run_on_workers() -> None:
    with pytest.raises(ValueError, match="only functions of this project run on workers"):
        function_of("os:system")
    assert function_of("tests.test_units:work") is work


# Deaths


DEADLY = ["memory", pytest.param("leave", marks=pytest.mark.slow)]
"""Ways to die: an error of memory takes no process with it and is quick, the other needs a new worker each time."""
BORDERS = [
    "clean.map.after_file",
    "publish.before_sync",
    "publish.before_rename",
    "publish.after_rename",
    "clean.map.before_record",
    "clean.map.after_record",
]


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.fault("K1")
def test_a_worker_killed_at_any_border_is_replaced_and_the_bytes_are_the_same(
    cluster: Cluster, tmp_path: Path, expected: dict[str, bytes], border: str
) -> None:
    environment = {"PIPELINE_FAILPOINT": f"{border}:kill:1", "PIPELINE_FAILPOINT_ONCE": str(tmp_path / "once")}
    found = map_units(workshop(tmp_path / "root", lambda: cluster), phase(environment=environment), slices(12))
    assert (tmp_path / "once").exists(), "nobody was killed"
    check_results(tmp_path / "root", found, 12)
    assert published(tmp_path / "root") == expected
    assert all(result.poison == () for result in found)


WORKER = """
import json, sys
from pipeline.task import execute
execute(json.loads(sys.argv[1]))
"""


@pytest.mark.parametrize("border", ["clean.map.start", *BORDERS])
@pytest.mark.fault("K1")
def test_after_a_kill_at_any_border_a_unit_is_found_whole_or_not_at_all(tmp_path: Path, expected: dict[str, bytes], border: str) -> None:
    storage, unit = Storage.at(str(tmp_path), "a1"), slices(1)[0]
    key = unit_key(workshop(tmp_path, never), phase(), unit)
    plain = argument(storage, [{"key": key, "argument": dict(unit.argument), "label": unit.label}])
    plain["given"] = {"environment": {"PIPELINE_FAILPOINT": border}}
    environment = {**os.environ, "PIPELINE_FAILPOINT": border if border.endswith("start") else "", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", WORKER, json.dumps(plain)], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGKILL, done.stderr
    found = find(storage, "clean", "map", key)
    assert (found is not None) == (border == "clean.map.after_record")
    for path, content in published(tmp_path).items():
        assert content == expected[path]
    execute({**plain, "given": {}})
    assert published(tmp_path) == {path: content for path, content in expected.items() if key in path}


@pytest.mark.parametrize("what", ["kill", "leave", "memory"])
def test_a_worker_that_dies_once_is_replaced(cluster: Cluster, tmp_path: Path, expected: dict[str, bytes], what: str) -> None:
    given = phase(trouble="at a record", numbers=[15], what=what, log=str(tmp_path / "log"), once=str(tmp_path / "once"))
    found = map_units(workshop(tmp_path / "root", lambda: cluster), given, slices(12))
    assert (tmp_path / "log").read_text() == "10\n"
    assert published(tmp_path / "root") == expected
    check_results(tmp_path / "root", found, 12)


@pytest.mark.parametrize("what", DEADLY)
@pytest.mark.fault("I8")
def test_a_record_that_always_kills_is_found_and_refused_unless_allowed(cluster: Cluster, tmp_path: Path, what: str) -> None:
    given = phase(trouble="at a record", numbers=[17], what=what, log=str(tmp_path / "log"))
    with pytest.raises(QuarantineError) as caught:
        map_units(workshop(tmp_path / "root", lambda: cluster), given, slices(4))
    assert str(caught.value) == (
        "clean: 1 record(s) kill their worker: corpus.txt#1 record 7. "
        "Remove them from the source, or allow them with quarantine.max_poison=1."
    )
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("what", DEADLY)
@pytest.mark.fault("I8")
def test_an_allowed_poison_record_is_quarantined_and_all_others_are_the_same(
    cluster: Cluster, tmp_path: Path, expected: dict[str, bytes], what: str
) -> None:
    given = phase(trouble="at a record", numbers=[13, 28], what=what, log=str(tmp_path / "log"))
    found = map_units(workshop(tmp_path / "root", lambda: cluster, max_poison=2), given, slices(12))
    assert [result.poison for result in found] == [(), (3,), (8,), *[()] * 9]
    assert [result.ledger.quarantined for result in found[:3]] == [{}, {"poison": 1}, {"poison": 1}]
    total((result.ledger for result in found), "documents").check("all", 120)
    seen = [row["n"] for result in found for row in rows(tmp_path / "root" / result.files["rows"].path)]
    assert seen == [number for number in range(120) if number not in (13, 28)]
    same = {path: content for path, content in expected.items() if found[1].key not in path and found[2].key not in path}
    assert {path: content for path, content in published(tmp_path / "root").items() if path in same} == same
    # The quarantine is part of what was published: it is neither found out again nor forgotten.
    again = map_units(workshop(tmp_path / "root", never, max_poison=2), given, slices(12))
    assert [result.poison for result in again] == [result.poison for result in found]
    with pytest.raises(QuarantineError, match=r"corpus\.txt#1 record 3; corpus\.txt#2 record 8"):
        map_units(workshop(tmp_path / "root", never, max_poison=1), given, slices(12))
    assert all(path.startswith("tmp/a1/tmp.") for path in leftovers(tmp_path / "root"))


def test_two_poison_records_in_one_unit_are_both_found(cluster: Cluster, tmp_path: Path) -> None:
    given = phase(trouble="at a record", numbers=[2, 9], what="memory", log=str(tmp_path / "log"))
    found = map_units(workshop(tmp_path / "root", lambda: cluster, max_poison=2), given, slices(1))
    assert sorted(found[0].poison) == [2, 9]
    assert [row["n"] for row in rows(tmp_path / "root" / found[0].files["rows"].path)] == [0, 1, 3, 4, 5, 6, 7, 8]


def test_the_search_ends_when_there_is_more_poison_than_allowed(cluster: Cluster, tmp_path: Path) -> None:
    given = phase(trouble="at a record", numbers=list(range(10)), what="memory", log=str(tmp_path / "log"))
    with pytest.raises(
        QuarantineError, match=r"corpus\.txt#0: more than 0 record\(s\) kill their worker \(memory\): 0 and at least one more"
    ):
        map_units(workshop(tmp_path / "root", lambda: cluster), given, slices(1))


def test_a_worker_that_dies_before_any_record_blames_none(cluster: Cluster, tmp_path: Path) -> None:
    with pytest.raises(UnitError, match=r"corpus\.txt#0: its worker dies \(crash\) before it reads a record"):
        map_units(workshop(tmp_path, lambda: cluster), phase("without_records"), slices(1))


@pytest.mark.fault("I8")
def test_a_record_that_kills_the_work_on_its_whole_batch_is_found_among_those_passed_on(cluster: Cluster, tmp_path: Path) -> None:
    given = phase("reads", trouble="in a batch", places=[["a", 3], ["b", 0]], what="memory", log=str(tmp_path / "log"))
    shop = workshop(tmp_path / "root", lambda: cluster, max_poison=2)
    (found,) = map_units(shop, given, slices(1))
    assert found.counts == {"a": [0, 1, 2, 4], "b": [1, 2, 3, 4]}
    assert (found.poison, found.poisoned) == ((3, 5), ("a.txt at 3", "b.txt at 0"))
    assert shop.poison == ["map: corpus.txt#0 record 3 (a.txt at 3)", "map: corpus.txt#0 record 5 (b.txt at 0)"]
    found.ledger.check("all", 10)


@pytest.mark.fault("I8")
@pytest.mark.parametrize(
    ("places", "counts", "names"),
    [
        ([["a", 3]], {"a": [0, 1, 2], "b": [0, 1, 2, 3, 4]}, ("what follows a.txt at 2",)),
        ([["b", 0]], {"a": [0, 1, 2, 3, 4], "b": []}, ("all of b.txt",)),
        ([["a", 1], ["b", 4]], {"a": [0], "b": [0, 1, 2, 3]}, ("what follows a.txt at 0", "what follows b.txt at 3")),
    ],
)
def test_where_reading_a_record_kills_the_rest_of_its_file_is_set_apart_and_the_others_go_on(
    cluster: Cluster, tmp_path: Path, places: list[list[Any]], counts: dict[str, list[int]], names: tuple[str, ...]
) -> None:
    given = phase("reads", trouble="in reading", places=places, what="memory", log=str(tmp_path / "log"))
    (found,) = map_units(workshop(tmp_path / "root", lambda: cluster, max_poison=2), given, slices(1))
    assert (found.counts, found.poisoned) == (counts, names)
    assert found.ledger.quarantined == {"poison": len(places)}
    with pytest.raises(QuarantineError, match=rf"corpus\.txt#0 record \d \({names[0]}\)"):
        map_units(workshop(tmp_path / "root", never), given, slices(1))


@pytest.mark.fault("I8")
@pytest.mark.slow
def test_native_code_that_eats_memory_is_stopped_at_the_bound_of_its_worker(cluster: Cluster, tmp_path: Path) -> None:
    settings = replace(cluster.settings, memory_per_worker=256 << 20)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster, "settings", settings)
        (found,) = map_units(workshop(tmp_path, lambda: cluster, max_poison=1), phase("grows"), slices(1))
    assert found.poison == (2,)
    assert found.ledger.kept == 3


def test_records_that_only_kill_together_blame_none(cluster: Cluster, tmp_path: Path) -> None:
    with pytest.raises(UnitError, match=r"but no record alone kills it\. Give workers more memory"):
        map_units(workshop(tmp_path, lambda: cluster), phase("too_heavy_together"), slices(1))


def test_deaths_that_no_trial_run_repeats_are_not_blamed_on_a_record(cluster: Cluster, tmp_path: Path, expected: dict[str, bytes]) -> None:
    """Somebody outside kills the worker twice; then it is left alone."""
    given = phase(environment={"PIPELINE_FAILPOINT": "clean.map.before_record:kill:1", "PIPELINE_FAILPOINT_ONCE": str(tmp_path / "once")})
    shop = workshop(tmp_path / "root", lambda: cluster)
    deaths: list[str] = []
    original = units._Queue._died

    def died(self: Any, attempt: Any, reason: str) -> Any:
        deaths.append(reason)
        if len(deaths) < 2:
            (tmp_path / "once").unlink()
        return original(self, attempt, reason)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(units._Queue, "_died", died)
        found = map_units(shop, given, slices(1))
    assert deaths == ["crash", "crash"]
    assert found[0].poison == ()
    assert published(tmp_path / "root") == {path: content for path, content in expected.items() if found[0].key in path}


@pytest.mark.slow
@pytest.mark.parametrize("what", ["hang", "stop"])
@pytest.mark.fault("I8")
def test_a_record_that_hangs_is_ended_at_the_deadline_and_found(cluster: Cluster, tmp_path: Path, what: str) -> None:
    given = phase(trouble="at a record", numbers=[12], what=what, log=str(tmp_path / "log"))
    started_at_s = time.monotonic()
    found = map_units(workshop(tmp_path / "root", lambda: cluster, max_poison=1, deadline_s=4), given, slices(2))
    assert time.monotonic() - started_at_s < 300
    assert [result.poison for result in found] == [(), (2,)]
    assert all(path.startswith("tmp/a1/tmp.") for path in leftovers(tmp_path / "root"))


def test_a_hang_once_is_only_a_delay(cluster: Cluster, tmp_path: Path, expected: dict[str, bytes]) -> None:
    given = phase(trouble="at a record", numbers=[12], what="hang", log=str(tmp_path / "log"), once=str(tmp_path / "once"))
    map_units(workshop(tmp_path / "root", lambda: cluster, deadline_s=1.5), given, slices(12))
    assert published(tmp_path / "root") == expected


def test_a_unit_that_waits_behind_slow_ones_is_not_taken_for_hung(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Six tasks of two and a half seconds are queued at once for two workers, with a deadline of six: the last end later than that."""
    monkeypatch.setattr(cluster, "workers", 6)
    seconds = {str(number * 10): 2.5 for number in range(6)}
    map_units(workshop(tmp_path, lambda: cluster, deadline_s=6.0), phase("careful", seconds=seconds), slices(6))
    assert "died" not in caplog.text


# Nodes


@pytest.mark.fault("K4")
def test_a_lost_node_is_no_fault_of_the_unit(
    cluster: Cluster, tmp_path: Path, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    lost: list[object] = []
    original = clusters.Cluster.result

    def lose_some(self: Cluster, handle: Any) -> object:
        value = original(self, handle)
        if len(lost) < 5:
            lost.append(handle)
            raise NodeLost("its node is gone")
        return value

    monkeypatch.setattr(clusters.Cluster, "result", lose_some)
    found = map_units(workshop(tmp_path, lambda: cluster), phase(), slices(12))
    assert len(lost) == 5
    assert published(tmp_path) == expected
    check_results(tmp_path, found, 12)


def test_nodes_lost_without_end_end_the_stage(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "NODE_LOSSES", 3)

    def lose(self: Cluster, handle: Any) -> object:
        raise NodeLost("its node is gone")

    monkeypatch.setattr(clusters.Cluster, "result", lose)
    with pytest.raises(StageError, match="nodes were lost 4 times: its node is gone"):
        map_units(workshop(tmp_path, lambda: cluster), phase(), slices(2))
