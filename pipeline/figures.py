"""Names and values in the form that MLflow takes, without passwords."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from pipeline.storage import without_userinfo

MAX_PARAM_LENGTH = 6000
MAX_TAG_LENGTH = 8000
MAX_NAME_LENGTH = 250


def safe_name(name: str) -> str:
    """Return a name that MLflow takes: letters, digits, `_ - . : /` and spaces, no empty or dotted part, 250 characters."""
    plain = re.sub(r"[^\w\-. :/]", "_", name.replace("@", "_at_").replace("=", "-"))
    parts = [part for part in plain.split("/") if part.strip(".")]
    return ("/".join(parts) or "_")[:MAX_NAME_LENGTH]


def flatten(params: Mapping[str, object]) -> dict[str, str]:
    """Return nested settings as dotted names and texts of at most 6,000 characters."""
    flat: dict[str, str] = {}
    for name, value in params.items():
        if isinstance(value, Mapping) and value:
            flat.update({safe_name(f"{name}.{inner}"): text for inner, text in flatten(value).items()})
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
            flat[safe_name(str(name))] = cut(text, MAX_PARAM_LENGTH)
    return flat


def as_tags(tags: Mapping[str, object]) -> dict[str, str]:
    """Return tags as names and texts that MLflow takes, without passwords."""
    return {safe_name(str(name)): cut(str(without_userinfo(str(value))), MAX_TAG_LENGTH) for name, value in tags.items()}


def cut(text: str, length: int) -> str:
    """Return at most `length` characters, the last an ellipsis where some are missing."""
    return text if len(text) <= length else text[: length - 1] + "…"


def scrubbed(value: Any) -> Any:
    """Return plain data in which no URL has a user or password."""
    if isinstance(value, str):
        return without_userinfo(value)
    if isinstance(value, Mapping):
        return {name: scrubbed(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [scrubbed(part) for part in value]
    return value


def quoted(text: str) -> str:
    """Return a text that may stand between the quotes of MLflow's search.

    Raises:
        ValueError: it holds a quote.
    """
    if "'" in text or "`" in text:
        raise ValueError(f"{text!r} holds a quote, which MLflow's search cannot take")
    return text
