"""The vocabulary: trained from counted words, used, exported. The only door to sentencepiece.

    {"▁raw": 41, "▁text": 17, …}  --train-->  model bytes  --Tokenizer-->  "raw text" -> [▁raw, ▁text] -> ids
                                                  |
                                                  '--export_huggingface-->  a directory AutoTokenizer opens, same ids

Words come from `words.count_words`: `▁` (U+2581) stands for the space before a word, and a word without it continues
the one before. So training sees each distinct word once with its count, its cost does not follow the size of the
corpus, and the result is that of training on the raw text. Text must have gone through `normalise` first: the model
has the identity normaliser, adds the one space before the text, and changes nothing else.

Ids: `<s>` 0, `<pad>` 1, `</s>` 2, `<unk>` 3, then the 256 bytes (with byte fallback), the merges in order, the
characters. `<mask>` is size − 1 and lies outside the model, which holds the size − 1 others.

The special strings mean nothing in a text: `Tokenizer` encodes a literal "<s>" or "<mask>" as ordinary characters, so
no document can smuggle one in. Hugging Face tokenizers do parse them, which users of `fill-mask` rely on, and the export
leaves that on; `AutoTokenizer.from_pretrained(directory, split_special_tokens=True)` turns it off, and then the ids
agree on such text too.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import sentencepiece

from pipeline.errors import ConfigError, IntegrityError, StageError

SPECIALS: Mapping[str, int] = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}
"""Piece -> id of the specials inside the model; `MASK` is outside it, with id size − 1."""
MASK = "<mask>"
SPACE = "▁"
VOCABULARY_FILE = "vocabulary.model"
MAX_WORD_CHARACTERS = 4_096
"""Longest word that `train` takes; `words.split_words` gives none over 65, and sentencepiece aborts at 65,535."""
_BATCH_LINES = 1_000
_WORDS_AT_ONCE = 10_000


def train(
    counts: Mapping[str, int] | Iterable[tuple[str, int]],
    *,
    size: int,
    byte_fallback: bool = True,
    character_coverage: float = 0.9995,
    required_chars: str = "",
    split_digits: bool = False,
    threads: int = 1,
) -> bytes:
    """Train a BPE vocabulary (Sennrich et al. 2016, as in sentencepiece) and return the model's bytes.

    The same counts give the same bytes, whatever their order, the folder or the number of threads.

    Args:
        counts: word -> how often, or such pairs (equal words are summed), words as `words.split_words` gives them.
        size: ids in all, `<mask>` included.
        byte_fallback: spend 256 ids so that a character outside the vocabulary becomes its UTF-8 bytes, not `<unk>`.
        character_coverage: share of all counted characters that get an id of their own; the rarest are left out.
        required_chars: characters that get an id whatever their count.
        split_digits: never join two digits in one piece.
        threads: of the counting part; merges run on one thread.

    Raises:
        StageError: no words; a word that cannot be trained on; the text supports fewer pieces than `size`, or needs more.
        ConfigError: `size`, `threads` or `character_coverage` out of range.
    """
    summed: dict[str, int] = {}
    for word, count in counts.items() if isinstance(counts, Mapping) else counts:
        if count <= 0:
            raise StageError(f"vocabulary: word {word!r} has count {count}; counts are whole numbers above 0")
        summed[word] = summed.get(word, 0) + int(count)
    ordered = sorted(summed)
    return train_words(
        pa.array(ordered, pa.large_string()), np.array([summed[word] for word in ordered], np.int64), size=size, byte_fallback=byte_fallback,
        character_coverage=character_coverage, required_chars=required_chars, split_digits=split_digits, threads=threads,
    )  # fmt: skip


def train_words(
    words: pa.Array,
    counts: np.ndarray[Any, np.dtype[np.int64]],
    *,
    size: int,
    byte_fallback: bool = True,
    character_coverage: float = 0.9995,
    required_chars: str = "",
    split_digits: bool = False,
    threads: int = 1,
) -> bytes:
    """`train` from columns: words (large_string), each once and sorted by their bytes, and their counts. No word becomes an object but on its way in."""
    if size < 8:
        raise ConfigError(f"vocabulary size is {size}; it must hold 4 specials, <mask> and some pieces: give at least 8")
    if not 0.98 <= character_coverage <= 1.0:
        raise ConfigError(f"character_coverage is {character_coverage}; allowed is 0.98 to 1.0 (as sentencepiece has it)")
    if threads < 1:
        raise ConfigError(f"threads is {threads}; give at least 1")
    _check_words(words)
    written = io.BytesIO()
    # SPACE stands in the words themselves, so no prefix is added here; it is switched on in the finished model.
    options: dict[str, Any] = {
        "model_type": "bpe",
        "vocab_size": size - 1,
        "input_format": "tsv",
        "input_sentence_size": 0,
        "max_sentence_length": 8 * MAX_WORD_CHARACTERS,
        "normalization_rule_name": "identity",
        "add_dummy_prefix": False,
        "remove_extra_whitespaces": False,
        "byte_fallback": byte_fallback,
        "character_coverage": character_coverage,
        "required_chars": "".join(sorted(set(required_chars) - {" ", SPACE, "\t", "\n"})),
        "split_digits": split_digits,
        "num_threads": threads,
        "minloglevel": 2,
        **{f"{option}_id": SPECIALS[piece] for option, piece in (("bos", "<s>"), ("pad", "<pad>"), ("eos", "</s>"), ("unk", "<unk>"))},
    }
    try:
        sentencepiece.SentencePieceTrainer.train(sentence_iterator=_lines(words, counts), model_writer=written, **options)
    except RuntimeError as error:
        raise _explained(error, size, byte_fallback) from error
    return _settled(written.getvalue())


def _lines(words: pa.Array, counts: np.ndarray[Any, np.dtype[np.int64]]) -> Iterator[str]:
    for start in range(0, len(words), _WORDS_AT_ONCE):
        for word, count in zip(
            words.slice(start, _WORDS_AT_ONCE).to_pylist(), counts[start : start + _WORDS_AT_ONCE].tolist(), strict=True
        ):
            yield f"{word}\t{count}"


def _check_words(words: pa.Array) -> None:
    """Refuse what sentencepiece would skip in silence, or abort on."""
    if not len(words):
        raise StageError("vocabulary: there are no words to train on; is every document dropped?")
    lengths = pc.utf8_length(words)
    wrong = pc.or_(pc.less(lengths, 1), pc.greater(lengths, MAX_WORD_CHARACTERS))
    if pc.any(wrong).as_py():
        word = words.filter(wrong)[0].as_py()
        raise StageError(
            f"vocabulary: word {word[:20]!r}… has {len(word)} characters, allowed are 1 to {MAX_WORD_CHARACTERS}; "
            "cut text with pipeline.text.words.split_words"
        )
    wrong = pc.match_substring_regex(words, "[\t\n\r \\x00▅]")  # U+2585 makes sentencepiece skip the word in silence
    if pc.any(wrong).as_py():
        raise StageError(
            f"vocabulary: word {words.filter(wrong)[0].as_py()!r} holds a space, tab, line end, NUL or U+2585; normalise the text, then cut it with split_words"
        )


def _explained(error: RuntimeError, size: int, byte_fallback: bool) -> StageError:
    """sentencepiece's message, which counts without `<mask>`, in terms of `size`."""
    text = str(error)
    if found := re.search(r"smaller than required_chars\. \d+ vs (\d+)", text):
        need = int(found[1]) + 1
        return StageError(
            f"vocabulary.size is {size}, but specials, {'bytes, ' if byte_fallback else ''}and single characters alone take {need}; "
            f"give a size above {need} or lower character_coverage",
            needed=need,
        )
    if found := re.search(r"value <= (\d+)", text):
        most = int(found[1]) + 1
        return StageError(f"vocabulary.size is {size}, but this text supports at most {most}; give size={most} or more text", at_most=most)
    return StageError(f"vocabulary: sentencepiece could not train {size} pieces: {text}")


def _settled(model: bytes) -> bytes:
    """The trained model with the space before a text switched on, and nothing in it that tells of this run."""
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    proto.normalizer_spec.add_dummy_prefix = True
    proto.trainer_spec.num_threads = 1
    proto.trainer_spec.ClearField("input")
    proto.trainer_spec.ClearField("model_prefix")
    return bytes(proto.SerializeToString(deterministic=True))


class Tokenizer:
    """A trained vocabulary, ready to encode."""

    def __init__(self, model: bytes) -> None:
        """Open model bytes.

        Raises:
            IntegrityError: the bytes are no sentencepiece model, or its specials are not where they must be.
        """
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except (RuntimeError, OSError) as error:
            raise IntegrityError(f"vocabulary: {len(model)} bytes that are no sentencepiece model ({error})") from error
        self._words: sentencepiece.SentencePieceProcessor | None = None
        inside = len(self._processor)
        found = {piece: self._processor.id_to_piece(index) for piece, index in SPECIALS.items() if index < inside}
        if any(piece != at_its_id for piece, at_its_id in found.items()) or len(found) < len(SPECIALS):
            raise IntegrityError(f"vocabulary: ids 0 to 3 are {list(found.values())}; they must be {list(SPECIALS)}")
        self.size: int = inside + 1
        self.mask_id: int = inside
        self.dtype: np.dtype[Any] = np.dtype(np.uint16 if self.size <= 1 << 16 else np.uint32)
        self.byte_ids: frozenset[int] = frozenset(index for index in range(inside) if self._processor.is_byte(index))

    def encode(self, texts: Sequence[str]) -> list[np.ndarray[Any, np.dtype[Any]]]:
        """Ids of each normalised text, without specials: shape (tokens,), uint16 up to 65,536 ids, else uint32."""
        rows = self._processor.encode(list(texts), out_type=int, num_threads=1)
        return [np.array(row, dtype=self.dtype) for row in rows]

    @cached_property
    def parts_at_spaces(self) -> bool:
        """Whether the ids of a text are those of its words in order: a BPE without a normaliser or symbols of the user's, and no piece with a space behind its start."""
        from sentencepiece import sentencepiece_model_pb2 as format

        proto = format.ModelProto.FromString(self._processor.serialized_model_proto())
        plain = not proto.normalizer_spec.precompiled_charsmap and not proto.normalizer_spec.remove_extra_whitespaces
        own = any(piece.type == format.ModelProto.SentencePiece.USER_DEFINED or SPACE in piece.piece[1:] for piece in proto.pieces)
        is_bpe = proto.trainer_spec.model_type == format.TrainerSpec.BPE
        return is_bpe and plain and not own and proto.normalizer_spec.add_dummy_prefix and SPACE in {piece.piece for piece in proto.pieces}

    def encode_words(self, words: Sequence[str]) -> tuple[np.ndarray[Any, np.dtype[np.int64]], np.ndarray[Any, np.dtype[np.int64]]]:
        """Ids of words as `words.split_words` gives them: `▁` stands for the space before one, and none is added.

        Returns:
            all ids one behind the other, and how many each word has, shape (words,).
        """
        if self._words is None:
            from sentencepiece import sentencepiece_model_pb2

            proto = sentencepiece_model_pb2.ModelProto.FromString(self._processor.serialized_model_proto())
            proto.normalizer_spec.add_dummy_prefix = False
            self._words = sentencepiece.SentencePieceProcessor(model_proto=bytes(proto.SerializeToString()))
        rows = self._words.encode(list(words), out_type=int, num_threads=1)
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        return np.fromiter(chain.from_iterable(rows), np.int64, int(lengths.sum())), lengths

    def decode(self, ids: Sequence[int] | np.ndarray[Any, np.dtype[Any]]) -> str:
        """The text of ids; specials, `<mask>` among them, give nothing, and `<unk>` gives " ⁇ ".

        Raises:
            ValueError: an id is not below `size`.
        """
        plain = [int(index) for index in ids]
        if plain and not 0 <= min(plain) <= max(plain) < self.size:
            raise ValueError(f"ids run from {min(plain)} to {max(plain)}; allowed are 0 to {self.size - 1}")
        return str(self._processor.decode([index for index in plain if index != self.mask_id]))

    def pieces(self) -> list[str]:
        """The piece of each id, `<mask>` last."""
        return [self._processor.id_to_piece(index) for index in range(self.mask_id)] + [MASK]

    def id_of(self, piece: str) -> int:
        """The id of a piece.

        Raises:
            KeyError: the vocabulary has no such piece.
        """
        if piece == MASK:
            return self.mask_id
        index = int(self._processor.piece_to_id(piece))
        if index == SPECIALS["<unk>"] and piece != "<unk>":
            raise KeyError(piece)
        return index


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
