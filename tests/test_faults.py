"""Which test answers for which fault, for the stages `ingest`, `clean`, `dedup` and `pretrain`; checked, so that the map stays true.

A test that answers for a fault carries `@pytest.mark.fault("I4")`; `pytest -m fault` runs them all, the slow ones too. A line below gives the fault's id,
what it is, and the files (below tests/) in which tests are marked with it.

    K1   SIGKILL of a worker at every failpoint        test_units.py test_gang.py end_to_end/test_kills.py end_to_end/test_failpoints.py
    K2   SIGKILL of the driver at every failpoint      end_to_end/test_kills.py end_to_end/test_failpoints.py
    K3   the driver's workers outlive it               test_lease.py test_launches.py end_to_end/test_failpoints.py
    K4   a node lost in mid-stage                      test_units.py test_cluster_nodes.py end_to_end/test_lost_hosts.py
    K5   a node drained for preemption                 test_cluster_nodes.py training/test_loop.py end_to_end/test_lost_hosts.py
    K6   Ctrl-C, a job stopped                         test_gang.py test_job.py end_to_end/test_kills.py
    K7   SIGKILL while a checkpoint is saved           end_to_end/test_kills.py
    K10  a worker or rank stands still                 test_gang.py end_to_end/test_lost_hosts.py
    K11  the head of the cluster killed                end_to_end/test_kills.py
    K12  SIGKILL while an extension is compiled        training/test_compiling.py
    I1   one byte flipped                              test_storage.py end_to_end/test_determinism.py end_to_end/test_reruns.py end_to_end/test_damage.py
    I2   a cut, an empty, a missing shard              end_to_end/test_damage.py
    I3   disk full, no more open files, read-only      test_units.py end_to_end/test_bad_input.py end_to_end/test_damage.py
    I4   compressed streams cut, corrupt, with a tail  stages/ingest/test_streams.py stages/ingest/test_sources.py end_to_end/test_bad_input.py end_to_end/test_damage.py
    I5   decompression bombs                           stages/ingest/test_streams.py stages/ingest/test_sources.py stages/ingest/test_horrors.py
    I6   horrible text                                 stages/ingest/test_streams.py stages/ingest/test_sources.py stages/ingest/test_horrors.py end_to_end/test_bad_input.py
    I7   empty files and languages, one document       stages/ingest/test_horrors.py end_to_end/test_bad_input.py end_to_end/test_damage.py
    I8   a record that kills, loops or eats memory     test_units.py end_to_end/test_poison.py
    I9   a source changes during the run               end_to_end/test_damage.py
    I10  language codes no, on, y                      stages/ingest/test_sources.py end_to_end/test_bad_input.py end_to_end/test_damage.py
    R1   workers, order, hash seed, locale, time zone  test_units.py end_to_end/test_determinism.py end_to_end/test_failpoints.py
    R2   the same command again                        test_units.py end_to_end/test_reruns.py
    R3   mtime touched, a comment edited               end_to_end/test_reruns.py
    R4   one parameter changed                         end_to_end/test_reruns.py
    R5   ZeRO stage or world size changed on resume    training/test_checkpoint.py training/test_loop.py
    N1   MLflow down, slow, locked                     test_tracking.py
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

TESTS = Path(__file__).resolve().parent
IN_SCOPE = {*(f"K{n}" for n in (*range(1, 8), 10, 11, 12)), *(f"I{n}" for n in range(1, 11)), *(f"R{n}" for n in range(1, 6)), "N1"}


def marked(source: str) -> set[str]:
    """Ids of the faults that test functions of a module are marked with."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            for decorator in node.decorator_list:
                if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.fault":
                    found |= {ast.literal_eval(argument) for argument in decorator.args}
    return found


def listed() -> dict[str, set[str]]:
    """The table above: id -> files."""
    rows = re.findall(r"^    ([A-Z]\d+) .*?((?:\S+\.py ?)+)$", __doc__ or "", re.MULTILINE)
    return {name: set(files.split()) for name, files in rows}


def test_every_fault_in_scope_is_answered_for_where_the_table_says_and_nowhere_else() -> None:
    found: dict[str, set[str]] = {}
    for path in sorted(TESTS.rglob("test_*.py")):
        for name in marked(path.read_text(encoding="utf-8")):
            found.setdefault(name, set()).add(path.relative_to(TESTS).as_posix())
    assert set(found) >= IN_SCOPE
    assert {name: files for name, files in found.items() if name in IN_SCOPE} == listed()


def test_a_mark_is_read_from_a_tests_decorators_alone() -> None:
    source = "@pytest.mark.slow\n@pytest.mark.fault('I1', 'K2')\ndef test_a(): pass\n@pytest.mark.fault('I3')\ndef helper(): pass\n"
    assert marked(source) == {"I1", "K2"}
