"""One contest: the peer and this engine in turn on the same corpus, with two workers each.

Start-up is what the same command takes on two files of three documents each, copies among them: interpreters, imports, Ray, MLflow, compiled code from its cache, and
the fixed cost of every phase. The ratio is of times apart from start-up; the ratio with it is printed too, and that of processor time apart from start-up, which a
busy machine disturbs less.

Both sides do what the contest is about and no more: ours writes no card of the corpus, and for near-duplicates measures nothing by which nothing is judged.
"""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks import engine, peer
from tests.benchmarks.corpus_text import Corpus
from tests.benchmarks.measured import Cost

TRIES = 6
"""Most times that a start-up is measured, on either side. The shortest counts, and no more are made once the next shortest is within SETTLED of it."""
SETTLED = 0.02
SHORT = 4
"""A run of less than so many start-ups is repeated as a start-up is, in turn with it, on either side: what else the machine does must not fall on one of the two."""
LEAST_S = 0.5
"""A shorter time apart from start-up is no measurement: give more text."""


@dataclass(frozen=True)
class Side:
    """One side's run, and its run on next to nothing."""

    name: str
    cost: Cost
    startup: Cost

    @property
    def seconds(self) -> float:
        """Time apart from start-up; not a number where that cannot be told from the start-up's own spread."""
        apart = self.cost.seconds - self.startup.seconds
        return apart if apart > LEAST_S else math.nan

    @property
    def cpu_seconds(self) -> float:
        """Processor time apart from start-up."""
        return self.cost.cpu_seconds - self.startup.cpu_seconds

    def line(self, corpus: Corpus, workers: int) -> str:
        """A row of the table."""
        return (
            f"  {self.name:28s} {self.cost.seconds:8.1f} s, start-up {self.startup.seconds:5.1f} s, apart from it {self.seconds:8.1f} s:"
            f" {corpus.documents / self.seconds:9,.0f} documents/s, {corpus.bytes / 1e6 / self.seconds / workers:7.2f} MB/s a core,"
            f" {self.cpu_seconds:.1f} s of the workers' processors, peak {self.cost.peak_bytes / 2**20:,.0f} MiB (PSS of the tree)"
        )


def _seconds(cost: Cost) -> float:
    return cost.seconds


def _are_settled(costs: Sequence[Cost]) -> bool:
    shortest = sorted(map(_seconds, costs))[:2]
    return len(shortest) == 2 and shortest[1] <= (1 + SETTLED) * shortest[0]


def side(name: str, startups: list[Cost], start: Callable[[], Cost], run: Callable[[], Cost]) -> Side:
    """Start a side and run it, in turn, as often as it takes; `startups` holds those made before and gains those made now."""
    if not startups:
        startups.append(start())
    costs = [run()]
    is_short = costs[0].seconds < SHORT * min(map(_seconds, startups))
    for _ in range(TRIES - 1):
        if _are_settled(startups) and (not is_short or _are_settled(costs)):
            break
        startups.append(start())
        if is_short:
            costs.append(run())
    return Side(name, min(costs, key=_seconds), min(startups, key=_seconds))


class Arena:
    """Where contests take place: the work folder, the tiny corpus, the peer, start-ups measured once each."""

    def __init__(self, work: Path, tiny: Corpus, other: peer.Peer | None, workers: int) -> None:
        self.work, self.workers = work, workers
        self._tiny, self._peer = tiny, other
        self._startups: dict[str, list[Cost]] = {}

    def warm(self) -> None:
        """Run either side once on next to nothing, so that no later start-up holds what only the first run on a machine pays: compiled code, cold files."""
        engine.pipeline(
            self.work / "run",
            engine.settings(
                self._tiny.pattern,
                self._tiny.languages,
                engine.fresh(self.storage),
                {},
                clean={},
                own=True,
                kept=True,
                card=True,
                workers=self.workers,
            ),
        )
        if self._peer is not None:
            for part in ("gopher", "minhash"):
                self._peer.run(part, "own", self._tiny.folder, self.work / "peer-warm", self.workers)
            shutil.rmtree(self.work / "peer-warm", ignore_errors=True)

    def theirs(self, part: str, splitting: str, corpus: Corpus) -> Side:
        """The peer's side; its output lies in `<work>/peer-<part>-<splitting>`."""
        if self._peer is None:
            raise ValueError("this arena has no peer")
        other, target, name = self._peer, self.work / f"peer-{part}-{splitting}", f"peer {part} {splitting}"

        def run(some: Corpus) -> Cost:
            place = self._startup_place if some is self._tiny else target
            shutil.rmtree(place, ignore_errors=True)
            return other.run(part, splitting, some.folder, place, self.workers)

        return side(f"datatrove {peer.VERSION}", self._startups.setdefault(name, []), lambda: run(self._tiny), lambda: run(corpus))

    def ours(
        self,
        name: str,
        corpus: Corpus,
        dedup: Mapping[str, Any],
        *,
        own: bool,
        kept: bool = False,
        clean: Mapping[str, Any] | None = engine.PLAIN,
        card: bool = False,
        workers: int = 0,
    ) -> Side:
        """This engine's side; its storage is `<work>/ours`."""
        key = json.dumps([dict(dedup), clean, own, kept, card, workers])

        def run(some: Corpus) -> Cost:
            storage = self._startup_place if some is self._tiny else self.storage
            plain = engine.settings(
                some.pattern,
                corpus.languages,
                engine.fresh(storage),
                dedup,
                clean=clean,
                own=own,
                kept=kept,
                card=card,
                workers=workers or self.workers,
            )
            if some is self._tiny:  # a unit a file, so that every worker starts, as the peer's do
                plain["stages"]["ingest"]["unit_bytes"] = 1 << 15
            return engine.pipeline(self.work / "run", plain)

        return side(name, self._startups.setdefault(key, []), lambda: run(self._tiny), lambda: run(corpus))

    @property
    def storage(self) -> Path:
        """The storage of the last run of `ours`."""
        return self.work / "ours"

    @property
    def _startup_place(self) -> Path:
        """Where either side leaves what a start-up makes, so that a run's output stays."""
        return self.work / "start-up"


def gopher(arena: Arena, corpus: Corpus, splitting: str, *, all_of_ours: bool) -> float:
    """Gopher's repetition and quality rules; prints both sides and returns the ratio of their times."""
    print(
        f"\nGopher repetition and quality rules, {splitting} word splitting: {corpus.documents:,} documents, {corpus.bytes / 1e6:,.0f} MB of JSON lines"
    )
    theirs = arena.theirs("gopher", splitting, corpus)
    ours = arena.ours("this engine", corpus, engine.GOPHER, own=splitting == "own", kept=True)
    _table(theirs, ours, corpus, arena.workers)
    print("  output of both: the kept documents as JSON lines, Zstandard level 3; English stop words are asked for on neither side")
    _differences(peer.kept(arena.work / f"peer-gopher-{splitting}"), arena.storage, splitting)
    if all_of_ours:  # on the smaller text: it is a second figure, not the contest
        full = arena.ours("with all of ours on", corpus, {}, own=True, kept=True, clean={}, card=True)
        print(full.line(corpus, arena.workers) + "\n    (languages identified, lines, near-duplicates, default rules)")
    return theirs.seconds / ours.seconds


def minhash(arena: Arena, corpus: Corpus, splitting: str) -> float:
    """MinHash signatures and clusters; prints both sides and returns the ratio of their times."""
    print(
        f"\nMinHash signatures and clustering, {splitting} word splitting: {corpus.documents:,} documents, {corpus.bytes / 1e6:,.0f} MB of JSON lines"
    )
    theirs = arena.theirs("minhash", splitting, corpus)
    ours = arena.ours("this engine", corpus, engine.NEAR, own=splitting == "own", clean=None)
    _table(theirs, ours, corpus, arena.workers)
    return theirs.seconds / ours.seconds


def _table(theirs: Side, ours: Side, corpus: Corpus, workers: int) -> None:
    print(theirs.line(corpus, workers))
    print(ours.line(corpus, workers))
    whole = theirs.cost.seconds / ours.cost.seconds
    print(
        f"  ratio {theirs.seconds / ours.seconds:.1f} apart from start-up, {whole:.1f} with it; of processor time"
        f" {theirs.cpu_seconds / ours.cpu_seconds:.1f}; {workers} workers each",
        flush=True,
    )


def _differences(theirs: set[str], storage: Path, splitting: str) -> None:
    """Say in what the kept sets differ, and why."""
    decided = engine.decisions(storage)
    ours = {name for name, (reason, _, _) in decided.items() if not reason}
    only_theirs = Counter(decided[name][0] for name in theirs - ours)
    duplicates = only_theirs.pop("duplicate", 0)
    print(
        f"  kept: {len(theirs):,} there, {len(ours):,} here; kept there alone: {duplicates:,} exact duplicates, which the engine always drops",
        end="",
    )
    rest, more = sum(only_theirs.values()), len(ours - theirs)
    if rest or more:
        why = ", ".join(f"{reason} {count}" for reason, count in sorted(only_theirs.items()))
        print(f", and {rest:,} more ({why or 'none'}); kept here alone: {more:,}")
        if splitting == "own":
            print(
                "    each side counts the words that it splits: there spaCy's English ones, punctuation apart; here words, in scripts without spaces estimates"
            )
    else:
        print("; no other difference")
