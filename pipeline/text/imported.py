"""An existing vocabulary in this program's layout: from a sentencepiece `.model` or a Hugging Face `tokenizer.json`.

    file -> pieces with scores, bytes, normaliser, ids there -> specials 0 to 3, bytes, pieces, <mask> -> model bytes, and the id there of each id here

The ids there are the rows of the embedding that goes with it, so a model can follow (`rows`). Of `tokenizer.json` those kinds are read that sentencepiece has too:
a unigram model, or BPE over characters with ▁ for the space; byte-level BPE (GPT-2, RoBERTa) and WordPiece (BERT) are refused. Merges become ranks of pieces: where
a file allows only some of the splits of a piece, rare words may get other ids than there, which is why an export is verified on the corpus.

Special strings are found by their usual names: <s> [CLS] <bos>, </s> [SEP] <eos>, <pad> [PAD], <unk> [UNK], <mask> [MASK]; other specials have no place here.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline.errors import ConfigError
from pipeline.text.tokenizer import MASK, SPACE, SPECIALS, language_token, model_bytes, opened_model

NONE = -1
"""In place of an id there: what is new."""
_NAMES = {
    "<s>": ("<s>", "[CLS]", "<bos>"),
    "</s>": ("</s>", "[SEP]", "<eos>"),
    "<pad>": ("<pad>", "[PAD]"),
    "<unk>": ("<unk>", "[UNK]"),
    MASK: (MASK, "[MASK]"),
}
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


@dataclass(frozen=True)
class Imported:
    """A vocabulary here, and where each of its ids comes from."""

    model: bytes
    origins: list[int]
    """The id there of each id here, `<mask>` last; `NONE` where there is none."""
    size_before: int
    """Ids there, so rows of its embedding."""
    identity: str
    """sha256 (hex) of which piece each id there is, specials left aside: alike for two files of one vocabulary, a sentencepiece model and a tokenizer.json too."""


@dataclass(frozen=True)
class _Found:
    kind: Literal["bpe", "unigram"]
    ids: Mapping[str, int]
    ordinary: Sequence[tuple[str, float]]
    charsmap: bytes
    size: int
    split_digits: bool = False


def imported(path: Path, name: str, languages: Sequence[str] = ()) -> Imported:
    """Read the vocabulary at a local path; `name` is what messages call it, `languages` get tokens of their own.

    Raises:
        ConfigError: it is neither kind of file, or of a kind that has no counterpart here.
    """
    data = path.read_bytes()
    found = _huggingface(data, name) if data.lstrip()[:1] == b"{" else _sentencepiece(data, name)
    bytes_there = [f"<0x{value:02X}>" for value in range(256)]
    byte_fallback = all(piece in found.ids for piece in bytes_there)
    controls = [language_token(lang) for lang in languages]
    model = model_bytes(
        found.kind, found.ordinary, byte_fallback=byte_fallback, character_coverage=1.0, split_digits=found.split_digits, controls=controls, charsmap=found.charsmap
    )  # fmt: skip

    def special(piece: str) -> int:
        return next((found.ids[known] for known in _NAMES[piece] if known in found.ids), NONE)

    origins = [special(piece) for piece in SPECIALS]
    origins += [found.ids[piece] for piece in bytes_there] if byte_fallback else []
    origins += [found.ids[piece] for piece, _ in found.ordinary]
    origins += [found.ids.get(piece, NONE) for piece in controls] + [special(MASK)]
    named = sorted(
        (found.ids[piece], piece) for piece in (*(bytes_there if byte_fallback else ()), *(piece for piece, _ in found.ordinary))
    )
    return Imported(model, origins, found.size, hashlib.sha256(json.dumps(named).encode()).hexdigest())


def _sentencepiece(data: bytes, name: str) -> _Found:
    try:
        proto = opened_model(data)
    except ValueError:
        raise ConfigError(
            f"{name}: neither a sentencepiece model nor a tokenizer.json; vocabulary.start.path must name one of them"
        ) from None
    kind = proto.trainer_spec.model_type
    if kind not in (1, 2) or not proto.pieces:
        raise ConfigError(f"{name}: a sentencepiece model of type {kind}; allowed are unigram (1) and BPE (2). Give another vocabulary.")
    normal, user = 1, 4
    ordinary = [(piece.piece, piece.score) for piece in proto.pieces if piece.type in (normal, user)]
    ids = {piece.piece: index for index, piece in enumerate(proto.pieces)}
    return _Found(
        "unigram" if kind == 1 else "bpe", ids, _ranked(ordinary) if kind == 2 else ordinary, proto.normalizer_spec.precompiled_charsmap, len(ids),
        proto.trainer_spec.split_digits,
    )  # fmt: skip


def _ranked(pieces: Sequence[tuple[str, float]]) -> list[tuple[str, float]]:
    """Pieces of BPE by rank, best first; equal scores in the order of the file."""
    return [(piece, -float(rank)) for rank, (piece, _) in enumerate(sorted(pieces, key=lambda pair: -pair[1]))]


def _huggingface(data: bytes, name: str) -> _Found:
    try:
        given: dict[str, Any] = json.loads(data)
        model = given["model"]
        kind = model["type"]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{name}: not a tokenizer.json ({type(error).__name__}: {error}); vocabulary.start.path must name one") from None
    added = {entry["content"]: int(entry["id"]) for entry in given.get("added_tokens") or []}
    if kind == "Unigram":
        pairs = [(str(piece), float(score)) for piece, score in model["vocab"]]
        ids = {piece: index for index, (piece, _) in enumerate(pairs)} | added
        ordinary = [(piece, score) for piece, score in pairs if piece not in added and not _BYTE.fullmatch(piece)]
        ordinary = [pair for pair in ordinary if pair[0] not in {other for names in _NAMES.values() for other in names}]
    elif kind == "BPE":
        ids = {str(piece): int(index) for piece, index in model["vocab"].items()} | added
        if SPACE not in ids and not any(piece.startswith(SPACE) for piece in ids):
            raise ConfigError(
                f"{name}: a BPE without {SPACE} for the space, so over bytes (GPT-2, RoBERTa); a vocabulary over characters can be read"
            )
        merged = ["".join(merge if isinstance(merge, list) else merge.split(" ", 1)) for merge in model["merges"]]
        rank = {piece: -float(at) for at, piece in reversed(list(enumerate(merged)))}
        known = {*added, *(other for names in _NAMES.values() for other in names)}
        plain = [piece for piece in sorted(ids, key=lambda piece: ids[piece]) if piece not in known and not _BYTE.fullmatch(piece)]
        ordinary = _ranked([(piece, rank.get(piece, -float(len(merged) + at))) for at, piece in enumerate(plain)])
    else:
        raise ConfigError(f"{name}: a tokenizer of type {kind!r}; allowed are Unigram and BPE. Give another vocabulary.")
    return _Found(kind.lower(), ids, ordinary, _charsmap(given.get("normalizer"), name), max(ids.values()) + 1)


def _charsmap(normalizer: Any, name: str) -> bytes:
    """The table of sentencepiece's normaliser in a chain of normalisers."""
    if normalizer is None:
        return b""
    kind = normalizer.get("type")
    if kind == "Sequence":
        maps = [_charsmap(part, name) for part in normalizer["normalizers"]]
        return next(filter(None, maps), b"")
    if kind == "Precompiled":
        return base64.b64decode(normalizer["precompiled_charsmap"] or "")
    if kind in (
        "Prepend",
        "Replace",
        "Strip",
        "NFC",
    ):  # spaces, which are one each and never at an end here, and what text has gone through
        return b""
    raise ConfigError(f"{name}: a tokenizer that normalises by {kind!r}; allowed is sentencepiece's own table. Give another vocabulary.")
