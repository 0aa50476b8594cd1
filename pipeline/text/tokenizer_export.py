"""A vocabulary as a Hugging Face tokenizer, and the proof that both give the same ids.

model bytes --export_huggingface--> a directory that AutoTokenizer opens --verify_export--> ids compared on every line
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import IntegrityError
from pipeline.text.tokenizer import MASK, SPACE, SPECIALS, VOCABULARY_FILE, Tokenizer

_BATCH_LINES = 1_000


def export_huggingface(model: bytes, directory: Path, max_length: int) -> None:
    """Write a tokenizer that `AutoTokenizer.from_pretrained(directory)` opens with no code of ours.

    `tokenizer.json` is a BPE with sentencepiece's merges by rank, its byte fallback and its space before the text;
    sequences become `<s> A </s>` and `<s> A </s></s> B </s>`, as XLM-R's. The class is named `TokenizersBackend`, since
    `XLMRobertaTokenizer` can only be a unigram model: it refuses this directory instead of giving other ids. The model
    lies beside it as `vocabulary.model`, a name that no Hugging Face class looks for. Equal arguments, equal bytes.

    Args:
        model: bytes from `train`.
        directory: made if it is not there; files in it with these names are replaced.
        max_length: tokens of a sequence with its specials, as `model_max_length`.
    """
    tokenizer = Tokenizer(model)
    directory.mkdir(parents=True, exist_ok=True)
    specials = [(piece, index, False) for piece, index in SPECIALS.items()] + [(MASK, tokenizer.mask_id, True)]
    names = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    mask = _added(MASK, lstrip=True)
    backend = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": index, **_added(piece, lstrip)} for piece, index, lstrip in specials],
        # Not Metaspace's own prefix, which is left out where the text begins with a space; sentencepiece always adds it.
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": SPACE},
                {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
            ],
        },
        "pre_tokenizer": {"type": "Split", "pattern": {"String": SPACE}, "behavior": "MergedWithNext", "invert": False},
        "post_processor": _template(),
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": bool(tokenizer.byte_ids),
            "ignore_merges": False,
            "vocab": {piece: index for index, piece in enumerate(tokenizer.pieces()[: tokenizer.mask_id])},
            "merges": list(_merges(tokenizer)),
        },
    }
    settings = {
        "tokenizer_class": "TokenizersBackend",
        "model_max_length": max_length,
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
        "padding_side": "right",
        **names,
        "mask_token": {"__type": "AddedToken", **mask},
    }
    (directory / VOCABULARY_FILE).write_bytes(model)
    for name, content in (
        ("tokenizer.json", backend),
        ("tokenizer_config.json", settings),
        ("special_tokens_map.json", {**names, "mask_token": mask}),
    ):
        text = json.dumps(content, ensure_ascii=False, indent=1, sort_keys=name != "tokenizer.json")
        (directory / name).write_text(text + "\n", encoding="utf-8", newline="\n")


def _added(piece: str, lstrip: bool) -> dict[str, Any]:
    return {"content": piece, "single_word": False, "lstrip": lstrip, "rstrip": False, "normalized": False, "special": True}


def _template() -> dict[str, Any]:
    def special(piece: str) -> dict[str, Any]:
        return {"SpecialToken": {"id": piece, "type_id": 0}}

    def sequence(letter: str) -> dict[str, Any]:
        return {"Sequence": {"id": letter, "type_id": 0}}

    first = [special("<s>"), sequence("A"), special("</s>")]
    return {
        "type": "TemplateProcessing",
        "single": first,
        "pair": [*first, special("</s>"), sequence("B"), special("</s>")],
        "special_tokens": {piece: {"id": piece, "ids": [SPECIALS[piece]], "tokens": [piece]} for piece in ("<s>", "</s>")},
    }


def _merges(tokenizer: Tokenizer) -> Iterator[list[str]]:
    """All pairs of pieces that join to a piece, by that piece's rank.

    sentencepiece joins any two neighbours whose join is in the vocabulary, best score first, leftmost first; the id
    order of the merged pieces is their score order. So every split of a piece is a merge of its rank.
    """
    processor = tokenizer._processor
    ordinary = [
        index
        for index in range(len(processor))
        if not (processor.is_control(index) or processor.is_unknown(index) or processor.is_byte(index) or processor.is_unused(index))
    ]
    pieces = {processor.id_to_piece(index): processor.get_score(index) for index in ordinary}
    for piece in sorted(pieces, key=lambda piece: -pieces[piece]):
        for cut in range(len(piece) - 1, 0, -1):
            if piece[:cut] in pieces and piece[cut:] in pieces:
                yield [piece[:cut], piece[cut:]]


def verify_export(model: bytes, directory: Path, lines: Sequence[str]) -> int:
    """Encode every line with the model and with `AutoTokenizer.from_pretrained(directory)`; the number of lines verified.

    Lines are taken as plain text on both sides (`split_special_tokens=True` for Hugging Face), specials of the template added.

    Raises:
        IntegrityError: a line gets other ids; the message has its number, from 0, its text and both rows.
    """
    from transformers import AutoTokenizer

    tokenizer = Tokenizer(model)
    exported = AutoTokenizer.from_pretrained(str(directory), local_files_only=True)
    if len(exported) != tokenizer.size or exported.mask_token_id != tokenizer.mask_id:
        raise IntegrityError(
            f"{directory}: exported tokenizer has {len(exported)} ids and <mask> {exported.mask_token_id}; "
            f"the vocabulary has {tokenizer.size} and {tokenizer.mask_id}: export it anew"
        )
    for start in range(0, len(lines), _BATCH_LINES):
        batch = list(lines[start : start + _BATCH_LINES])
        theirs = exported(batch, split_special_tokens=True, truncation=False, verbose=False)["input_ids"]
        for offset, (ours, other) in enumerate(zip(tokenizer.encode(batch), theirs, strict=True)):
            expected = [SPECIALS["<s>"], *ours.tolist(), SPECIALS["</s>"]]
            if expected != other:
                raise IntegrityError(
                    f"{directory}: line {start + offset} {batch[offset][:80]!r} is {expected[:40]} in {VOCABULARY_FILE} "
                    f"but {other[:40]} in tokenizer.json; the export is not the vocabulary: export it anew",
                    line=start + offset,
                )
    return len(lines)
