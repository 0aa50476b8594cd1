"""Looking at what was made: the state of each stage, and inside an artifact.

    status   plan + state + lease -> one record a stage; with `verify`, every byte is hashed again
    show     state -> manifest -> a view of each part: tables, packed rows as text, vocabulary, ledgers, counts, files

Text of a corpus may hold anything, control sequences of a terminal too: whatever is shown goes through `clean_text`.
`status` and a look at ledgers and counts load no library; tables load pyarrow, packed rows and pieces sentencepiece.
"""

from __future__ import annotations

import json
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from pipeline import corpus_card
from pipeline import manifest as manifests
from pipeline.artifacts.card import CARD_FILE
from pipeline.dag import Graph
from pipeline.errors import ConfigError, IntegrityError
from pipeline.ledger import Ledger
from pipeline.manifest import Manifest, SlotContent, State
from pipeline.stage import Input, Timing
from pipeline.storage import Published, Storage, without_userinfo

TEXT_CHARACTERS = 100
ROW_CHARACTERS = 2000
_PLAIN_SUFFIXES = (".json", ".tsv", ".csv", ".txt", ".md")
_OVERVIEW_BYTES = 64 << 10
_LONG_TEXTS = ("text", "text_a", "text_b", "text_pair")
_TEN_THOUSANDTHS = ("fertility", "characters_per_piece", "parity")
_COMPARED = ("characters_per_piece", "fertility", "byte_fallback_share", "unknown_share", "parity")
_CHUNK = 1 << 20
PROFILE = "profile"
PROFILE_BYTES = 8 << 20


def show(graph: Graph, stage: str, part: str | None, lang: str | None, rows: int) -> Iterator[str]:
    """Lines that show what `stage` made: all parts in brief, or one. `lang` keeps what is of that language, where there is such a thing.

    Raises:
        ConfigError: there is no such stage or part (the message lists those there are), or the stage was never run.
        IntegrityError: what is to be shown is damaged.
    """
    if rows < 1:
        raise ConfigError(f"--rows is {rows}; it must be at least 1.")
    if part == PROFILE and _profiler(graph, stage) is not None:
        return _profile(graph, stage)
    made = _artifact(graph, graph.instance(stage).name)
    if made is None:
        raise ConfigError(f"{stage} was never run for {graph.settings.name}: there is nothing to show. Make it with `run --until {stage}`.")
    views = _views(graph, stage, made, lang, rows)
    if part is None:
        return _overview(graph, stage, made, views)
    name = part if part in views else part.rsplit(".", 1)[0]
    if name not in views:
        raise ConfigError(f"{stage} has no part {part!r}; it has {', '.join(_names(graph, stage, views))}.")
    return iter(views[name]())


def clean_text(text: str, most: int = TEXT_CHARACTERS) -> str:
    """At most `most` characters, in one line, harmless to a terminal: controls, bidirectional overrides and surrogates as escapes."""
    cut = text if len(text) <= most else text[: most - 1] + "…"
    return "".join(_escaped(character) for character in cut)


def _escaped(character: str) -> str:
    plain = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}.get(character)
    if plain is not None:
        return plain
    kind = unicodedata.category(character)
    # Joiners (U+200C, U+200D) are letters' business in Persian and Indic scripts; all other invisible format characters are shown.
    if kind in ("Cc", "Cs", "Zl", "Zp") or (kind == "Cf" and character not in "\u200c\u200d"):
        code = ord(character)
        return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
    return character


View = Callable[[], Iterable[str]]


def _artifact(graph: Graph, instance: str) -> Manifest | None:
    entry = State.load(graph.storage, graph.settings.name).instances.get(instance)
    return None if entry is None else manifests.load(graph.storage, entry["manifest"])


def _views(graph: Graph, stage: str, made: Manifest, lang: str | None, rows: int) -> dict[str, View]:
    """Name of a part -> what gives its lines, in the order of an overview."""
    views: dict[str, View] = {}
    for slot, content in sorted(made.outputs.items()):
        if content.type == "packing":
            views[slot] = partial(_packed, graph, stage, content, lang, rows)
        elif content.type == "card":
            views |= _card(graph.storage, content, lang, rows)
        elif content.type == "vocabulary":
            views["pieces"] = partial(_pieces, graph.storage, content, rows)
            views["compared"] = partial(_compared, graph.storage, content, lang)
        elif content.shards:
            views[slot] = partial(_table_rows, graph, stage, content, lang, rows)
    for name, entry in _plain_files(made):
        views.setdefault(name.rsplit(".", 1)[0], partial(_plain, graph.storage, name, entry, lang, rows))
    if made.ledgers:
        views["ledger"] = partial(_ledgers, made, lang)
    if made.counts:
        views["counts"] = partial(_json_lines, dict(made.counts), lang, rows)
    if made.record.get("warnings"):
        views["warnings"] = partial(map, partial(clean_text, most=ROW_CHARACTERS), made.record["warnings"])
    views["files"] = partial(_files, made)
    return views


def _plain_files(made: Manifest) -> Iterator[tuple[str, Published]]:
    for _, content in sorted(made.outputs.items()):
        for name, entry in sorted(content.files.items()):
            if name.endswith(_PLAIN_SUFFIXES):
                yield name, entry
    for name, kept in sorted(made.record.get("evidence", {}).items()):
        if name.endswith(_PLAIN_SUFFIXES):
            yield name, Published(**kept)


def _overview(graph: Graph, stage: str, made: Manifest, views: Mapping[str, View]) -> Iterator[str]:
    started = made.record.get("started")
    when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(started)) if isinstance(started, (int, float)) else "?"
    seconds, run = made.record.get("seconds", 0), made.record.get("run", "?")
    yield f"{stage}: {made.stage} {made.key[:12]}, made {when} in {seconds:.1f} s by run {run}"
    yield without_userinfo(graph.storage.url(made.path.rpartition("/")[0]))
    yield f"parts: {', '.join(_names(graph, stage, views))}"
    large = {name.rsplit(".", 1)[0] for name, entry in _plain_files(made) if entry.bytes > _OVERVIEW_BYTES or "/" in name}
    if any(content.type == "card" for content in made.outputs.values()):
        large.add(CARD_FILE.removesuffix(".json"))  # its parts have views of their own
    for name, view in views.items():
        if name not in large:
            yield ""
            yield f"== {name}"
            yield from view()


# ---------------------------------------------------------------- profile


def _names(graph: Graph, stage: str, views: Mapping[str, View]) -> list[str]:
    return [*views, *([PROFILE] if _profiler(graph, stage) is not None else [])]


def _profiler(graph: Graph, stage: str) -> Callable[..., list[Timing]] | None:
    return getattr(graph.instance(stage).declaration.module, "profile", None)


def _profile(graph: Graph, stage: str) -> Iterator[str]:
    """Documents and megabytes a second of each part of a stage's work, and its share of the time, measured now."""
    instance, inputs = graph.instance(stage), {}
    for edge in instance.edges:
        source = _artifact(graph, edge.instance)
        if source is None:
            raise ConfigError(f"{stage}: its input {edge.instance} was never run. Make it with `run --until {edge.instance}`.")
        inputs[edge.slot] = Input(edge.slot, edge.instance, source.outputs[edge.output], source, graph.storage)
    profiler = _profiler(graph, stage)
    assert profiler is not None
    timings = profiler(instance.config, inputs, PROFILE_BYTES)
    if not timings:
        yield "no document to measure"
        return
    total = sum(timing.seconds for timing in timings)
    yield f"{timings[0].documents} documents, {timings[0].bytes / 1e6:.2f} MB of text, one core, in {total:.2f} s"
    body = [
        [
            timing.name, f"{timing.documents / max(timing.seconds, 1e-9):.0f}", f"{timing.bytes / 1e6 / max(timing.seconds, 1e-9):.1f}",
            f"{100 * timing.seconds / max(total, 1e-9):.1f}%", timing.remark,
        ]
        for timing in timings
    ]  # fmt: skip
    whole = [f"{timings[0].documents / max(total, 1e-9):.0f}", f"{timings[0].bytes / 1e6 / max(total, 1e-9):.1f}", "100.0%", ""]
    yield from _columns(["part", "documents/s", "MB/s", "share", ""], [*body, ["all", *whole]])


# ---------------------------------------------------------------- tables


def _tables(storage: Storage, content: SlotContent) -> Iterator[Any]:
    """Local, verified paths of a slot's Arrow files: its shards, then its files."""
    for shard in content.shards:
        yield storage.local(shard.path, shard.sha256)
    for name, entry in sorted(content.files.items()):
        if name.endswith(".arrow"):
            yield storage.local(entry.path, entry.sha256)


def _table_rows(graph: Graph, stage: str, content: SlotContent, lang: str | None, most: int) -> Iterator[str]:
    from pipeline import tables

    total = sum(shard.rows for shard in content.shards)
    yield f"{content.type}: {total} rows in {len(content.shards)} shards"
    decode = _decoder(graph, stage) if content.type.endswith("tokens") else None
    shown = 0
    for path in _tables(graph.storage, content):
        for row in tables.rows(path):
            if lang is not None and lang not in (row.get("lang"), row.get("lang_a"), row.get("lang_b")):
                continue
            yield from _row(row, shown, decode)
            shown += 1
            if shown == most:
                return
    if not shown:
        yield f"no row{f' in {lang}' if lang else ''}"


def _row(row: Mapping[str, Any], number: int, decode: Callable[[Sequence[int]], str] | None) -> Iterator[str]:
    short = [f"{name}={_cell(value)}" for name, value in row.items() if value is not None and name not in _LONG_TEXTS]
    yield f"[{number}] " + "  ".join(short)
    for name in _LONG_TEXTS:
        if row.get(name) is not None:
            yield f"    {name}: {clean_text(row[name])}"
    if decode is not None and row.get("ids") is not None:
        # Enough ids for the characters that are shown; a document may have millions.
        yield f"    text: {clean_text(decode(row['ids'][:TEXT_CHARACTERS]))}"


def _cell(value: Any) -> str:
    if isinstance(value, bytes):
        return value.hex()[:12]
    if isinstance(value, list):
        head = ", ".join(_cell(item) for item in value[:6])
        return f"[{head}{f', … {len(value)} in all' if len(value) > 6 else ''}]"
    return clean_text(value if isinstance(value, str) else str(value), 60)


# ---------------------------------------------------------------- packing and vocabulary


def _vocabulary(graph: Graph, stage: str) -> bytes | None:
    """The model bytes of the vocabulary that `stage` was made with: that of the nearest stage before it that has one."""
    from pipeline.artifacts.vocabulary import MODEL_FILE

    waiting = [stage]
    seen = set(waiting)
    while waiting:
        name = waiting.pop(0)
        made = _artifact(graph, name)
        for content in made.outputs.values() if made is not None else ():
            entry = content.files.get(MODEL_FILE)
            if entry is not None:
                return graph.storage.local(entry.path, entry.sha256).read_bytes()
        before = [edge.instance for edge in graph.instance(name).edges if edge.instance not in seen]
        seen.update(before)
        waiting += before
    return None


def _decoder(graph: Graph, stage: str) -> Callable[[Sequence[int]], str] | None:
    model = _vocabulary(graph, stage)
    if model is None:
        return None
    from pipeline.text.tokenizer import Tokenizer

    return Tokenizer(model).decode


def _packed(graph: Graph, stage: str, content: SlotContent, lang: str | None, most: int) -> Iterator[str]:
    """Training rows as the model reads them: `<s> span </s> span </s>`."""
    from pipeline import tables

    decode = _decoder(graph, stage)
    if decode is None:
        raise IntegrityError(f"{stage}: no stage before it has a vocabulary any more, so its rows cannot be decoded. Run again.")
    shards = {shard.sha256: shard for made in _all_artifacts(graph) for c in made.outputs.values() for shard in c.shards}
    shown = 0
    for path in _tables(graph.storage, content):
        reader = tables.open_file(path)
        about = _packing_metadata(reader.schema)
        if lang is not None and lang != about.get("lang"):
            continue
        total = sum(reader.get_batch(n).num_rows for n in range(reader.num_record_batches))
        if shown < most:
            yield f"{about.get('lang')} {about.get('split')}: {total} rows of {about.get('length')} tokens"
        flat: dict[int, Any] = {}
        for row in tables.rows(path):
            if shown == most:
                return
            texts = []
            for span in row["spans"]:
                number = span["shard"]
                if number not in flat:
                    flat[number] = _flat_ids(graph.storage, shards, about["token_shards"][number], stage)
                ids = flat[number][span["start"] : span["start"] + span["length"]]
                texts.append(clean_text(decode(ids.to_pylist()), ROW_CHARACTERS))
            tokens = 1 + sum(span["length"] + 1 for span in row["spans"])
            yield f"[{shown}] {tokens} tokens: <s> {''.join(f'{text} </s> ' for text in texts)}".rstrip()
            shown += 1
    if not shown:
        yield f"no row{f' in {lang}' if lang else ''}"


def _packing_metadata(schema: Any) -> dict[str, Any]:
    """`lang`, `split`, `length` and `token_shards` of a packing's file."""
    metadata = {key.decode(): value.decode() for key, value in (schema.metadata or {}).items()}
    if "packing" in metadata:
        return dict(json.loads(metadata["packing"]))
    return {**metadata, "token_shards": json.loads(metadata.get("token_shards", "[]"))}


def _all_artifacts(graph: Graph) -> Iterator[Manifest]:
    for instance in graph.instances:
        made = _artifact(graph, instance.name)
        if made is not None:
            yield made


def _flat_ids(storage: Storage, shards: Mapping[str, Any], sha256: str, stage: str) -> Any:
    """The ids of a token shard as one array over mapped memory."""
    from pipeline import tables

    shard = shards.get(sha256)
    if shard is None:
        raise IntegrityError(f"{stage}: a shard of tokens that it names ({sha256[:12]}…) is no longer there; run again.")
    return tables.read_table(storage.local(shard.path, shard.sha256), ("ids",))["ids"].combine_chunks().values


def _pieces(storage: Storage, content: SlotContent, rows: int) -> Iterator[str]:
    """Pieces at equal distances over all ids, eight a line: specials and early merges come first, rare characters last."""
    from pipeline.artifacts.vocabulary import MODEL_FILE
    from pipeline.text.tokenizer import Tokenizer

    entry = content.files[MODEL_FILE]
    tokenizer = Tokenizer(storage.local(entry.path, entry.sha256).read_bytes())
    pieces = tokenizer.pieces()
    wanted = min(len(pieces), 8 * rows)
    chosen = [number * (len(pieces) - 1) // max(1, wanted - 1) for number in range(wanted)]
    yield f"{tokenizer.size} ids"
    for start in range(0, wanted, 8):
        yield "  ".join(f"{index} {clean_text(pieces[index], 24)}" for index in chosen[start : start + 8])


def _compared(storage: Storage, content: SlotContent, lang: str | None) -> Iterator[str]:
    """Each language by this vocabulary and by those it was compared with, side by side."""
    entry = content.files["card.json"]
    card = json.loads(storage.local(entry.path, entry.sha256).read_bytes())
    others = card["compared"]
    if not others:
        yield "nothing to compare with: name vocabularies in stages.vocabulary.compare"
        return
    yield ", ".join(f"{name}: {made['size']} ids" for name, made in {"this one": card, **others}.items())
    for name in _COMPARED:
        sides = [made["languages"] for made in (card, *others.values())]
        chosen = [code for code in sides[0] if lang in (None, code) and name in sides[0][code]]
        if chosen:
            yield f"{name}:"
            body = [[code, *(_figure(name, side.get(code, {}).get(name, "")) for side in sides), ""] for code in chosen]
            yield from _columns(["lang", "this one", *others, ""], body)


def _card(storage: Storage, content: SlotContent, lang: str | None, rows: int) -> dict[str, View]:
    entry = content.files[CARD_FILE]
    parts = corpus_card.tables(json.loads(storage.local(entry.path, entry.sha256).read_bytes()), lang, rows)
    return {name: partial(_printed, part) for name, part in parts.items()}


def _printed(part: Callable[[], Iterable[str | corpus_card.Table]]) -> Iterator[str]:
    for item in part():
        if isinstance(item, str):
            yield clean_text(item, ROW_CHARACTERS)
        else:
            yield from _columns(*item)


# ---------------------------------------------------------------- ledgers, plain files, files


def _ledgers(made: Manifest, lang: str | None) -> Iterator[str]:
    for name, plain in sorted(made.ledgers.items()):
        ledger = Ledger.from_plain(plain)
        body = []
        for code, account in sorted(ledger.accounts.items()):
            if lang is None or code == lang:
                dropped, quarantined = sum(account.dropped.values()), sum(account.quarantined.values())
                body.append([code, account.taken, account.kept, dropped, quarantined, _reasons(account)])
        if lang is None:
            dropped, quarantined = sum(ledger.dropped.values()), sum(ledger.quarantined.values())
            body.append(["all", ledger.taken, ledger.kept, dropped, quarantined, ""])
        yield f"{name}, in {ledger.unit}:"
        yield from _columns(["lang", "in", "kept", "dropped", "quarantined", "reasons"], body)
        for before, row in sorted(ledger.relabelled.items()):
            if lang is None or before == lang:
                yield f"relabelled {before} → " + ", ".join(f"{after} {count}" for after, count in sorted(row.items()))


def _reasons(account: Any) -> str:
    counts = [*account.dropped.items(), *account.quarantined.items()]
    return ", ".join(f"{reason} {count}" for reason, count in sorted(counts, key=lambda item: (-item[1], item[0])))


def _plain(storage: Storage, name: str, entry: Published, lang: str | None, rows: int) -> Iterator[str]:
    text = storage.local(entry.path, entry.sha256).read_text("utf-8", errors="backslashreplace")
    if name.endswith(".json"):
        yield from _json_lines(json.loads(text), lang, rows)
        return
    lines = text.splitlines()
    for line in lines[: 8 * rows]:
        yield "\t".join(clean_text(cell) for cell in line.split("\t"))
    if len(lines) > 8 * rows:
        yield f"… {len(lines) - 8 * rows} more lines"


def _json_lines(value: Any, lang: str | None, rows: int, depth: int = 0) -> Iterator[str]:
    """Plain data for reading: first values as `name: value`, then mappings of mappings and lists of mappings as tables."""
    if not isinstance(value, dict):
        value = {"": value}
    for name, item in sorted(value.items(), key=lambda pair: isinstance(pair[1], (dict, list))):
        shown = clean_text(str(name), 60)
        if isinstance(item, dict) and item and all(isinstance(inner, dict) for inner in item.values()):
            chosen = {lang: item[lang]} if lang in item else item
            yield f"{shown}:"
            yield from _records({str(key): inner for key, inner in chosen.items()})
        elif isinstance(item, list) and item and all(isinstance(inner, dict) for inner in item):
            mine = [inner for inner in item if lang is None or inner.get("lang", lang) == lang]
            yield f"{shown}: {len(mine)}"
            yield from _records({str(number): inner for number, inner in enumerate(mine[: 8 * rows])})
        elif isinstance(item, dict) and item and any(isinstance(inner, (dict, list)) for inner in item.values()) and depth < 3:
            yield f"{shown}:"
            yield from (f"  {line}" for line in _json_lines(item, lang, rows, depth + 1))
        elif isinstance(item, dict):
            chosen = {lang: item[lang]} if lang in item else item
            yield f"{shown}: " + "  ".join(f"{clean_text(str(key), 60)} {_figure(str(key), inner)}" for key, inner in chosen.items())
        else:
            yield f"{shown}: {_figure(str(name), item)}" if shown else _figure("", item)


def _records(records: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    names = list(dict.fromkeys(name for record in records.values() for name in record))
    body = [[key, *(_figure(name, record.get(name, "")) for name in names)] for key, record in records.items()]
    yield from _columns(["", *names], body)


def _figure(name: str, value: Any) -> str:
    """A value for reading; figures kept in 1/10000 as the ratio they are."""
    if isinstance(value, int) and not isinstance(value, bool) and (name in _TEN_THOUSANDTHS or name.endswith("_share")):
        return f"{value / 10_000:.4f}"
    if isinstance(value, (dict, list)):
        value = json.dumps(value, ensure_ascii=False)
    return clean_text(value if isinstance(value, str) else str(value))


def _columns(header: Sequence[str], body: Sequence[Sequence[Any]]) -> Iterator[str]:
    """Aligned columns, numbers to the right."""
    rows = [[clean_text(str(name), 60) for name in header], *([clean_text(str(cell), ROW_CHARACTERS) for cell in row] for row in body)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    for row in rows:
        inner = [f"{cell:>{width}}" for cell, width in zip(row[1:-1], widths[1:-1], strict=True)]
        yield "  ".join([f"{row[0]:<{widths[0]}}", *inner, *row[1:][-1:]]).rstrip()


def _files(made: Manifest) -> Iterator[str]:
    body: list[list[Any]] = []
    for slot, content in sorted(made.outputs.items()):
        body += [[slot, shard.bytes, shard.rows, shard.sha256[:12], shard.path] for shard in content.shards]
        body += [[slot, entry.bytes, "", entry.sha256[:12], entry.path] for _, entry in sorted(content.files.items())]
    evidence = sorted(made.record.get("evidence", {}).items())
    body += [["evidence", kept["bytes"], "", kept["sha256"][:12], kept["path"]] for _, kept in evidence]
    yield f"{len(body)} files, {sum(row[1] for row in body) / 2**20:.1f} MiB"
    yield from _columns(["slot", "bytes", "rows", "sha256", "path"], body)
