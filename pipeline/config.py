"""The typed configuration: frozen pydantic models checked strictly, all mistakes at once, each with its place.

A file goes through `document.read` (YAML 1.2 with positions) and `document.with_overrides`, then each part through `parse_section`,
which returns a frozen value or a list of problems. Defaults < file < `a.b=c`. Nothing here opens a file or a socket.

`${env:NAME}` may stand in any text. It stays unexpanded in the configuration, so that no log, manifest or key ever holds its value;
`reveal` gives the value where it is used.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from pipeline.document import Document, Location, Problem
from pipeline.errors import ConfigError

_ENV = re.compile(r"\$\{env:([A-Za-z_][A-Za-z0-9_]*)\}")

OUTSIDE_IDENTITY = {"identity": False}
"""`json_schema_extra` of a field that never enters a key: a path, a host, a number of workers, a way of running."""


class Section(BaseModel):
    """Base of every configuration: frozen, strict, unknown keys refused, the docstring under a field is its description."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True, protected_namespaces=())


def outside(default: Any = ..., **constraints: Any) -> Any:
    """A field that stays outside identity; `default` may be left out where there is a `default_factory`."""
    given = {} if "default_factory" in constraints else {"default": default}
    return Field(**given, json_schema_extra=dict(OUTSIDE_IDENTITY), **constraints)


class Quarantine(Section):
    """How much unreadable input is borne."""

    max_share: float = Field(0.01, ge=0, le=1)
    """Largest share of a source's bytes that may be quarantined before the run fails (exit 4)."""
    max_poison: int = Field(0, ge=0)
    """Largest number of records that may be quarantined because they killed, hung or outgrew a worker."""


class ClusterSection(Section):
    """Where the work runs; outside identity."""

    address: str | None = None
    """Address of a running Ray cluster; none starts a local one (inside a Ray job: the job's own cluster)."""
    workers: int | tuple[int, int] = 0
    """Ranks of a training job and, locally, tasks at once; 0 takes all cores; [min, max] is elastic."""
    cpus_per_worker: float = Field(1.0, gt=0)
    """Cores that a rank or a task reserves."""
    gpus_per_worker: float | Literal["auto"] = "auto"
    """GPUs that a rank reserves; auto takes one where there are any."""
    memory_per_worker: int | None = Field(None, gt=0)
    """Bytes of memory that a task reserves and, of its own data, may not outgrow; none reserves and bounds nothing."""
    unit_deadline_s: float = Field(1800.0, gt=0)
    """Seconds after which a unit's worker is killed and the unit tried again."""
    deadline_s: float = Field(600.0, gt=0)
    """Seconds without a step after which a training rank counts as hung."""


class TrackingSection(Section):
    """Where MLflow is."""

    uri: str | None = None
    """MLflow tracking URI; none is an SQLite file under a local storage root."""
    experiment: str | None = None
    """MLflow experiment; none takes the pipeline's name."""


class RetrainSection(Section):
    """When a new model replaces the champion."""

    min_gain: float = 0.0
    """Nats per masked token by which the challenger's held-out loss must be lower (macro over languages)."""
    cron: str = "0 3 * * 0"
    """Five cron fields: when the line printed by `retrain --cron` fires."""


class PipelineConfig(Section):
    """The top of a pipeline file."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")
    """Name of the pipeline: of its run records, MLflow experiment and registered models."""
    languages: str | tuple[str, ...] = "xlmr"
    """A named set (xlmr, flores, udhr100) or a list of BCP-47 codes."""
    seed: int = Field(1, ge=0, lt=2**63)
    """Seed of every draw."""
    storage: str = outside("~/xlm-pipeline")
    """Root of everything kept: a folder or an fsspec URL."""
    stages: Mapping[str, Any]
    """Stage instances: name -> {uses, inputs, the stage's own settings}; null switches one off."""
    quarantine: Quarantine = Quarantine()
    """How much unreadable input is borne."""
    cluster: ClusterSection = outside(ClusterSection())
    """Where the work runs."""
    tracking: TrackingSection = outside(TrackingSection())
    """Where MLflow is."""
    retrain: RetrainSection = RetrainSection()
    """When a new model replaces the champion."""


SectionT = TypeVar("SectionT", bound=Section)


def parse_section(model: type[SectionT], document: Document, location: Location, data: Any) -> tuple[SectionT | None, list[Problem]]:
    """Check `data`, which stands at `location` of the document, against `model`; a value, or every problem found."""
    try:
        text = json.dumps(data)
    except (TypeError, ValueError) as error:
        return None, [Problem(document.place(location), location, f"not plain data: {error}")]
    try:
        return TypeAdapter(model).validate_json(text), []
    except ValidationError as error:
        return None, list(_problems(model, document, location, error))


_EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "frozen_set_type": "a list",
    "dict_type": "a mapping",
    "mapping_type": "a mapping",
    "model_type": "a mapping of settings",
    "model_attributes_type": "a mapping of settings",
}
"""What pydantic's kinds of type error expect, in the words of a YAML file."""


@dataclass(frozen=True)
class _Found:
    """A pydantic error at its place in the file. `unions` are the places of the plain unions it came through, with the branch tried."""

    here: Location
    kind: str
    message: str
    expected: str
    given: Any
    model: type[BaseModel] | None
    context: Mapping[str, Any]
    unions: tuple[tuple[Location, str], ...]


def _problems(model: type[Section], document: Document, location: Location, error: ValidationError) -> Iterator[Problem]:
    found = []
    for detail in error.errors(include_url=False):
        steps = _walk(model, None, detail["loc"]) or _Steps(tuple(detail["loc"]), None, ())
        unions = tuple(((*location, *place), branch) for place, branch in steps.unions)
        message = detail["msg"][:1].lower() + detail["msg"][1:]
        message = message.removeprefix("value error, ").removeprefix("assertion failed, ")
        expected = (
            message.removeprefix("input should be ") if detail["type"] in ("literal_error", "enum") else _EXPECTED.get(detail["type"], "")
        )
        context = detail.get("ctx") or {}
        here = (*location, *steps.inner)
        found.append(_Found(here, detail["type"], message, expected, detail.get("input"), steps.model, context, unions))
    # A list all of whose items are wrong is called too short besides.
    found = [each for each in found if each.kind != "too_short" or not any(_is_below(other.here, each.here) for other in found)]
    yield from (_problem(document, item) for item in _one_a_mistake(found))


def _is_below(inner: Location, outer: Location) -> bool:
    return len(inner) > len(outer) and inner[: len(outer)] == outer


def _one_a_mistake(found: Sequence[_Found]) -> list[_Found]:
    """Of the branches of a union keep that which fits the value best: one that fails further inside, else all in one sentence."""
    for union in dict.fromkeys(place for item in found for place, _ in item.unions):
        tried: dict[str, list[_Found]] = {}
        for item in found:
            for place, branch in item.unions:
                if place == union:
                    tried.setdefault(branch, []).append(item)
        deeper = [items for items in tried.values() if all(item.here != union or not item.expected for item in items)]
        if deeper:
            kept = min(deeper, key=len)
        else:
            flat = [items[0] for items in tried.values()]
            words = list(dict.fromkeys(item.expected for item in flat))
            kept = [replace(flat[0], expected=" or ".join(words))] if flat else []
        dropped = [item for items in tried.values() for item in items]
        if len(tried) > 1:
            at = min(found.index(item) for item in dropped)
            found = [*found[:at], *kept, *(item for item in found[at:] if item not in dropped)]
    return list(found)


def _problem(document: Document, item: _Found) -> Problem:
    here, place = item.here, document.place(item.here)
    if item.kind == "extra_forbidden":
        return unknown_key(document, here, _known_fields(item.model))
    if item.kind == "missing":
        return Problem(document.place(here[:-1], key=True), here, "missing", _described(item.model, here))
    if item.kind in ("union_tag_invalid", "union_tag_not_found"):
        # The error stands at the mapping; what is wrong is the key in it that says which kind of mapping this is.
        here = (*here, str(item.context.get("discriminator", "")).strip("'"))
        allowed = [tag.strip().strip("'") for tag in str(item.context.get("expected_tags", "")).split(",") if tag.strip()]
        if item.kind == "union_tag_not_found":
            return Problem(document.place(here[:-1]), here, "missing", "it says which kind of entry this is")
        tag = str(item.context.get("tag", ""))
        near = difflib.get_close_matches(tag, allowed, n=1)
        hint = f'did you mean "{near[0]}"? ' if near else ""
        return Problem(document.place(here), here, f"unknown {here[-1]} {tag!r}", f"{hint}known: {', '.join(allowed)}")
    given = item.given
    written = place.spelling if not isinstance(given, str) and here in document.values else ""
    shown = "" if isinstance(given, (dict, list)) and not item.expected else f", found {_shown(given, written)}"
    message = f"expected {item.expected}" if item.expected else item.message
    remark = _described(item.model, here)
    if item.kind == "string_type" and item.expected == "text" and isinstance(given, (int, float, bool)):
        remark = f'write it in quotes: "{written or given}"'
    return Problem(place, here, message + shown, remark)


def _shown(given: Any, written: str) -> str:
    if given is None or isinstance(given, (dict, list)):
        return "nothing" if given is None else "a mapping" if isinstance(given, dict) else "a list"
    text = written or repr(given)
    return text if len(text) <= 60 else f"{text[:60]}…"


def unknown_key(document: Document, location: Location, fields: Mapping[str, str]) -> Problem:
    """An unknown key, with the nearest known one and what it holds."""
    near = difflib.get_close_matches(str(location[-1]), list(fields), n=1, cutoff=0.55)
    if near:
        remark = f'did you mean "{near[0]}"?{fields[near[0]]}'
    else:
        remark = f"known: {', '.join(fields)}" if fields else "nothing may stand here"
    return Problem(document.place(location, key=True), location, "unknown key", remark)


@dataclass(frozen=True)
class _Steps:
    """Where a pydantic location leads: its part that exists in the file, the model whose field is last, the plain unions on the way."""

    inner: Location
    model: type[BaseModel] | None
    unions: tuple[tuple[Location, str], ...]


def _walk(annotation: Any, model: type[BaseModel] | None, loc: Location, inner: Location = ()) -> _Steps | None:
    """Follow a pydantic location through the types; None where it does not fit them.

    The location names fields, list positions and mapping keys, but also, for each union, the branch that was tried, which is not in
    the file and may be called like a field that is (`kind: text` with a field `text`): only the types tell them apart.
    """
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    arguments = get_args(annotation)
    if get_origin(annotation) in (Union, types.UnionType):
        members = [member for member in arguments if member is not type(None)]
        if len(members) == 1 or not loc:
            return _walk(members[0], model, loc, inner) if len(members) == 1 else _Steps(inner, model, ())
        label = str(loc[0])
        tagged = [member for member in members if _is_tagged(member, label)]
        named = [member for member in members if getattr(member, "__name__", "") == label]
        for member in tagged or named or members:
            steps = _walk(member, model, loc[1:], inner)
            if steps is not None:
                return steps if tagged else replace(steps, unions=((inner, label), *steps.unions))
        return None
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if not loc:
            return _Steps(inner, model, ())
        info = annotation.model_fields.get(str(loc[0]))
        if info is None:  # an unknown key
            return _Steps((*inner, loc[0]), annotation, ()) if len(loc) == 1 else None
        return _walk(info.annotation, annotation, loc[1:], (*inner, loc[0]))
    if not loc:
        return _Steps(inner, model, ())
    if isinstance(loc[0], int):
        items = [argument for argument in arguments if argument is not Ellipsis]
        item = items[min(loc[0], len(items) - 1)] if items else Any
        return _walk(item, None, loc[1:], (*inner, loc[0])) if get_origin(annotation) in (tuple, list, set, frozenset, Sequence) else None
    if get_origin(annotation) in (dict, Mapping):
        if loc[1:] == ("[key]",):
            return _Steps((*inner, loc[0]), None, ())
        return _walk(arguments[1], None, loc[1:], (*inner, loc[0]))
    return _Steps(inner, model, ()) if annotation is Any or not arguments else None


def _is_tagged(member: Any, label: str) -> bool:
    """Whether the model has a field that holds nothing but this tag: the branch of a discriminated union."""
    fields = getattr(member, "model_fields", {}).values()
    return any(get_origin(info.annotation) is Literal and label in get_args(info.annotation) for info in fields)


def _has(data: Any, part: str | int) -> bool:
    if isinstance(data, Mapping):
        return part in data
    return isinstance(data, list) and isinstance(part, int) and -len(data) <= part < len(data)


def _known_fields(model: type[BaseModel] | None) -> dict[str, str]:
    """Field names of a model with a word on type and default."""
    return {name: _type_and_default(model, name) for name in model.model_fields} if model is not None else {}


def _type_and_default(model: type[BaseModel], name: str) -> str:
    info = model.model_fields[name]
    kind = info.annotation.__name__ if isinstance(info.annotation, type) else str(info.annotation).replace("typing.", "")
    default = "required" if info.is_required() else f"default {info.get_default(call_default_factory=True, validated_data={})!r}"
    return f" ({kind}, {default})" if len(default) < 60 else f" ({kind})"


def _described(model: type[BaseModel] | None, here: Location) -> str:
    info = model.model_fields.get(str(here[-1])) if model is not None and here else None
    return (info.description or "").replace("\n", " ") if info is not None else ""


def identity_of(value: Any) -> Any:
    """The part of a configuration that enters a key: plain data without the fields marked `outside`.

    Raises:
        TypeError: a value has no stable form.
    """
    if isinstance(value, BaseModel):
        kept = {}
        for name, info in type(value).model_fields.items():
            extra = info.json_schema_extra
            if not (isinstance(extra, dict) and extra.get("identity") is False):
                kept[name] = identity_of(getattr(value, name))
        return kept
    if isinstance(value, Mapping):
        return {str(key): identity_of(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [identity_of(item) for item in value]
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    raise TypeError(f"{type(value).__name__} has no stable form and cannot enter a key; use text, numbers, lists or mappings")


def known_names(names: tuple[str, ...], registry: Mapping[str, Any], what: str) -> tuple[str, ...]:
    """`names`, if each is in the registry; for a field validator.

    Raises:
        ValueError: one is not; the message names the nearest.
    """
    for name in names:
        if name not in registry:
            near = difflib.get_close_matches(name, list(registry), n=1)
            raise ValueError(f"unknown {what} {name!r}" + (f', did you mean "{near[0]}"?' if near else f"; known: {', '.join(registry)}"))
    return names


def environment_names(data: Any) -> set[str]:
    """Every NAME of a `${env:NAME}` in `data`."""
    if isinstance(data, str):
        return set(_ENV.findall(data))
    if isinstance(data, Mapping):
        return set().union(*(environment_names(item) for item in data.values()), set())
    if isinstance(data, (list, tuple)):
        return set().union(*(environment_names(item) for item in data), set())
    return set()


def missing_environment(document: Document) -> list[Problem]:
    """A problem for each `${env:NAME}` whose variable is not set."""
    problems = []
    for location, place in document.values.items():
        data: Any = document.data
        for part in location:
            data = data[part] if _has(data, part) else None
        if isinstance(data, str):
            for name in _ENV.findall(data):
                if name not in os.environ:
                    problems.append(Problem(place, location, f"the environment variable {name} is not set", f"export {name}=…"))
    return problems


def reveal(text: str) -> str:
    """`text` with each `${env:NAME}` replaced by its value; the result is for use at once, never for a log or a key.

    Raises:
        ConfigError: the variable is not set.
    """

    def value(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in os.environ:
            raise ConfigError(f"the environment variable {name} is not set. Export it, or change ${{env:{name}}} in the file.")
        return os.environ[name]

    return _ENV.sub(value, text)


def resolve_path(path: str, base: Path) -> str:
    """A local path made absolute against the folder of the pipeline file, at the end of a chain of URLs too; a URL is left as it is. `~` is the home folder."""
    revealed = reveal(path)
    chain, joined, last = revealed.rpartition("::")
    if joined and "://" in chain and "://" not in last:
        return f"{chain}::{os.path.normpath(base / Path(last).expanduser())}"
    if "://" in revealed or revealed.startswith("npm:"):
        return revealed
    return os.path.normpath(base / Path(revealed).expanduser())


NonEmpty = Annotated[str, Field(min_length=1)]
