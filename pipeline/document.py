"""A YAML 1.2 file as plain data in which every key and value knows its file, line and column.

`read(path)` composes the node graph with ruamel.yaml (pure Python) and builds the values itself, by the YAML 1.2 core schema:
`no`, `on` and `y` are strings, `010` is ten, `1e-4` a float; a key is always text. Refused: duplicate keys, keys that are lists or
mappings, merge keys, tags, several documents in a file, more than `MAX_BYTES` of text, `MAX_DEPTH` of nesting or `MAX_NODES` values
after aliases are expanded.
`extends: other.yaml` merges mappings; scalars and lists replace; `null` removes. `with_overrides` applies trailing `a.b=c` arguments.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_NODES = 100_000

Location = tuple[str | int, ...]

_TAGGED = re.compile(r"(?:&\S+\s+)?(!\S*)")
_TAGGED_BEFORE_ANCHOR = re.compile(r"(?:^|[\s\[{,])(!\S*)[ \t]+\Z")
_INT = re.compile(r"[-+]?[0-9]+\Z")
_OCT = re.compile(r"0o[0-7]+\Z")
_HEX = re.compile(r"0x[0-9a-fA-F]+\Z")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")
_SPECIAL = {"": None, "~": None, "null": None, "Null": None, "NULL": None, "true": True, "True": True, "TRUE": True,
            "false": False, "False": False, "FALSE": False}  # fmt: skip


@dataclass(frozen=True)
class Place:
    """Where something stands: a file and a line and column counted from 1, or an override argument."""

    source: str
    line: int = 0
    column: int = 0
    width: int = 1
    text: tuple[str, ...] = field(default=(), repr=False)

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}" if self.line else self.source

    def excerpt(self, remark: str) -> list[str]:
        """The line before, the line itself and a caret with `remark`."""
        if not self.line:
            return [f"  {remark}"] if remark else []
        digits = len(str(self.line))
        rows = []
        for number in (self.line - 1, self.line):
            if 1 <= number <= len(self.text):
                rows.append(f"  {number:>{digits}} | {self.text[number - 1]}")
        line = self.text[self.line - 1] if self.line <= len(self.text) else ""
        before, marked = line[: self.column - 1].ljust(self.column - 1), line[self.column - 1 : self.column - 1 + self.width]
        rows.append(f"  {' ' * digits} | {_blank(before)}{'^' * max(1, len(_blank(marked)))} {remark}".rstrip())
        return rows

    @property
    def spelling(self) -> str:
        """What stands there, as it is written; empty where that is not known or goes over several lines."""
        if not 1 <= self.line <= len(self.text):
            return ""
        return self.text[self.line - 1][self.column - 1 : self.column - 1 + self.width]


def _blank(text: str) -> str:
    """Spaces as wide as `text` is on a terminal (tabs stay), so that a caret stands under what it means."""
    return "".join(
        character
        if character == "\t"
        else ""
        if unicodedata.combining(character)
        else "  "
        if unicodedata.east_asian_width(character) in "WF"
        else " "
        for character in text
    )


@dataclass(frozen=True)
class Problem:
    """One mistake: where, which field, what is wrong, and how to mend it."""

    place: Place
    location: Location
    message: str
    remark: str = ""

    def lines(self) -> list[str]:
        """The problem as it is printed."""
        dotted = ".".join(str(part) for part in self.location)
        return [f"{self.place}  {dotted + ': ' if dotted else ''}{self.message}", *self.place.excerpt(self.remark)]


@dataclass(frozen=True)
class Document:
    """The merged data of a file, the files it extends and its overrides, with the place of each key and value."""

    data: Mapping[str, Any]
    path: Path
    keys: Mapping[Location, Place] = field(default_factory=dict)
    values: Mapping[Location, Place] = field(default_factory=dict)

    def place(self, location: Location, *, key: bool = False) -> Place:
        """The place of the value (or key) at `location`, else of the nearest thing around it."""
        tables = (self.keys, self.values) if key else (self.values, self.keys)
        for length in range(len(location), -1, -1):
            for table in tables:
                found = table.get(location[:length])
                if found is not None:
                    return found
        return Place(str(self.path))


def fail(problems: Iterable[Problem]) -> ConfigError:
    """All problems as one error, in the order of the file."""
    ordered = sorted(problems, key=lambda p: (p.place.source, p.place.line, p.place.column, p.location != (), str(p.location)))
    lines = [line for problem in ordered for line in problem.lines()]
    lines.append(f"{len(ordered)} error{'s' if len(ordered) != 1 else ''}. Nothing was run.")
    return ConfigError("\n".join(lines))


def read(path: Path, *, _seen: tuple[Path, ...] = ()) -> Document:
    """Read `path` and what it extends.

    Raises:
        ConfigError: the file is missing, is not YAML 1.2, or holds something refused; the message names line and column.
    """
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file. Give the path of a pipeline file, for example pipeline.yaml.") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}.") from None
    name = str(path)
    if len(raw) > MAX_BYTES:
        raise ConfigError(f"{name}: more than {MAX_BYTES} bytes, the most that a pipeline file may have.")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name}: not UTF-8 at byte {error.start}. Save the file as UTF-8.") from None
    builder = _Builder(name, tuple(text.splitlines()))
    data = builder.build(text)
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise fail([Problem(builder.values[()], (), f"expected a mapping of settings, found {_kind(data)}")])
    if builder.problems:
        raise fail(builder.problems)
    document = Document(data, path, builder.keys, builder.values)
    base = data.pop("extends", None)
    if base is None:
        return document
    if not isinstance(base, str):
        raise fail([Problem(builder.values[("extends",)], ("extends",), f"expected a path, found {_kind(base)}")])
    target = (path.parent / base).resolve()
    if target in (*_seen, path.resolve()):
        raise fail([Problem(builder.values[("extends",)], ("extends",), f"{base} extends this file again: a circle")])
    if not target.is_file():
        raise fail(
            [Problem(builder.values[("extends",)], ("extends",), f"there is no file {target}", "a path from the folder of this file")]
        )
    return _merge(read(target, _seen=(*_seen, path.resolve())), document)


def with_overrides(document: Document, overrides: Iterable[str]) -> Document:
    """Apply `a.b=value` arguments; the value is YAML (`steps=100`, `languages=[en, de]`, `finetune=null`).

    Raises:
        ConfigError: an argument has no `=`, or its value is not YAML.
    """
    for argument in overrides:
        name, equals, text = argument.partition("=")
        source = f"override '{name}'"
        if not equals or not name or any(not part for part in name.split(".")):
            raise ConfigError(f"{argument!r} is not an override: write it as stages.pretrain.steps=100 (a flag goes before, as --force).")
        if not text.strip():
            raise ConfigError(f"{argument!r} gives no value. Write {name}=null to take the setting away, {name}='\"\"' for an empty text.")
        builder = _Builder(source, ())
        data = builder.build(text)
        if builder.problems:
            raise fail(builder.problems)
        location: Location = tuple(name.split("."))
        for part in reversed(location):
            data = {str(part): data}
        places = {location[:n]: Place(source) for n in range(1, len(location) + 1)}
        places.update({(*location, *inner): Place(source) for inner in (*builder.keys, *builder.values)})
        document = _merge(document, Document(data, document.path, places, places))
    return document


def _merge(base: Document, over: Document) -> Document:
    keys, values = dict(base.keys), dict(base.values)

    def drop(location: Location) -> None:
        for table in (keys, values):
            for known in [k for k in table if k[: len(location)] == location]:
                del table[known]

    def adopt(location: Location) -> None:
        for mine, theirs in ((keys, over.keys), (values, over.values)):
            mine.update({k: v for k, v in theirs.items() if k[: len(location)] == location})

    def merge(a: Mapping[str, Any], b: Mapping[str, Any], location: Location) -> dict[str, Any]:
        result = dict(a)
        for key, value in b.items():
            here = (*location, key)
            if isinstance(value, dict):
                known = result.get(key)
                if not isinstance(known, dict):
                    drop(here)
                    adopt(here)
                    known = {}
                result[key] = merge(known, value, here)
                continue
            drop(here)
            # Directly under `stages` null is kept: it switches a stage off that is on by default.
            if value is None and location != ("stages",):
                result.pop(key, None)
            else:
                result[key] = value
                adopt(here)
        return result

    return Document(merge(base.data, over.data, ()), over.path, keys, values)


def _kind(value: Any) -> str:
    if value is None or isinstance(value, (dict, list)):
        return "nothing" if value is None else "a mapping" if isinstance(value, dict) else "a list"
    return repr(value) if len(repr(value)) <= 60 else f"{repr(value)[:60]}…"


class _Builder:
    """Builds plain values from ruamel's nodes and notes their places."""

    def __init__(self, source: str, text: tuple[str, ...]) -> None:
        self.source, self.text = source, text
        self.raw = ""
        self.keys: dict[Location, Place] = {}
        self.values: dict[Location, Place] = {}
        self.problems: list[Problem] = []
        self.count = 0

    def build(self, text: str) -> Any:
        from ruamel.yaml import YAML
        from ruamel.yaml.error import MarkedYAMLError, YAMLError
        from ruamel.yaml.reader import ReaderError

        self.raw = text
        try:
            yaml = YAML(typ="safe", pure=True)
            node = yaml.compose(text)
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            place = Place(self.source, mark.line + 1, mark.column + 1, 1, self.text) if mark and self.text else Place(self.source)
            hint = "" if self.text else "quote a value that begins with a sign of YAML's own: 'a.b=\"*.txt\"'"
            raise fail([Problem(place, (), f"not YAML: {error.problem or error.context}", hint)]) from None
        except ReaderError as error:
            rows = text[: error.position].splitlines() or [""]
            place = Place(self.source, len(rows), len(rows[-1]) + 1) if self.text else Place(self.source)
            raise fail([Problem(place, (), f"the character U+{ord(text[error.position]):04X} may not stand in YAML")]) from None
        except RecursionError:
            raise fail([Problem(Place(self.source), (), f"nested deeper than {MAX_DEPTH}")]) from None
        except YAMLError as error:
            raise fail([Problem(Place(self.source), (), f"not YAML: {str(error).splitlines()[0]}")]) from None
        return None if node is None else self._value(node, (), 0)

    def _place(self, node: Any) -> Place:
        start, end = node.start_mark, node.end_mark
        width = end.column - start.column if end.line == start.line else 1
        return Place(self.source, start.line + 1, start.column + 1, max(1, width), self.text) if self.text else Place(self.source)

    def _problem(self, node: Any, location: Location, message: str, remark: str = "") -> None:
        self.problems.append(Problem(self._place(node), location, message, remark))

    def _value(self, node: Any, location: Location, depth: int) -> Any:
        self.values[location] = self._place(node)
        self.count += 1
        if self.count > MAX_NODES:
            raise fail([Problem(self._place(node), location, f"more than {MAX_NODES} values (aliases count each time they are used)")])
        if depth > MAX_DEPTH:
            raise fail([Problem(self._place(node), location, f"nested deeper than {MAX_DEPTH}")])
        if self._tagged(node, location):
            return None
        kind = type(node).__name__
        if kind == "MappingNode":
            return self._mapping(node, location, depth)
        if kind == "SequenceNode":
            return [self._value(child, (*location, index), depth + 1) for index, child in enumerate(node.value)]
        return self._scalar(node, location)

    def _tagged(self, node: Any, location: Location) -> bool:
        # The node's own tag is also set where none is written, so the text decides: an untagged plain value never begins with "!".
        at = node.start_mark.index
        tag = _TAGGED.match(self.raw, at)
        if tag is None and self.raw[at : at + 1] == "&":
            tag = _TAGGED_BEFORE_ANCHOR.search(self.raw, max(0, self.raw.rfind("\n", 0, at)), at)
        if tag is not None:
            self._problem(node, location, f"the tag {tag.group(1)} is refused: only plain YAML values are read")
        return tag is not None

    def _text(self, node: Any, location: Location) -> str | None:
        text = str(node.value)
        try:
            # JSON writes characters above U+FFFF as two escapes.
            return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            self._problem(node, location, "half a surrogate pair is not a character")
            return None

    def _mapping(self, node: Any, location: Location, depth: int) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if type(key_node).__name__ != "ScalarNode":
                self._problem(key_node, location, "a key must be plain text")
                continue
            key = None if self._tagged(key_node, location) else self._text(key_node, location)
            if key is None:
                continue
            here = (*location, key)
            if key == "<<" and key_node.style is None:
                self._problem(key_node, here, "merge keys (<<) are not part of YAML 1.2", "use `extends:` or write the keys out")
                continue
            if key in result:
                first = self.keys[here]
                self._problem(key_node, here, "duplicate key", f"first at line {first.line}" if first.line else "")
                continue
            self.keys[here] = self._place(key_node)
            result[key] = self._value(value_node, here, depth + 1)
        return result

    def _scalar(self, node: Any, location: Location) -> Any:
        text = self._text(node, location)
        if text is None or node.style is not None:
            return text
        if text in _SPECIAL:
            return _SPECIAL[text]
        if _INT.match(text):
            if len(text) > 30:
                self._problem(node, location, f"a number of {len(text)} digits")
                return None
            return int(text)
        if _OCT.match(text):
            return int(text[2:], 8)
        if _HEX.match(text):
            return int(text[2:], 16)
        if _FLOAT.match(text):
            value = float(text)
            if not math.isfinite(value):
                self._problem(node, location, f"{text} is beyond what a number can hold")
                return None
            return value
        if text.lower() in (".inf", "-.inf", "+.inf", ".nan"):
            self._problem(node, location, f"{text} is not a usable number")
            return None
        return text
