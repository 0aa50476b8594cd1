"""The vocabulary: trained from counted words, used, exported. The only door to sentencepiece.

    {"▁raw": 41, "▁text": 17, …}  --train-->  model bytes  --Tokenizer-->  "raw text" -> [▁raw, ▁text] -> ids
                                                  |
                                                  '--tokenizer_export-->  a directory AutoTokenizer opens, same ids

Words come from `words.count_words`: `▁` (U+2581) stands for the space before a word, and a word without it continues
the one before. So training sees each distinct word once with its count, its cost does not follow the size of the
corpus, and the result is that of sentencepiece's training on the raw text, found in less time and memory (`merges`). Text must have gone through `normalise` first: the model
has the identity normaliser, adds the one space before the text, and changes nothing else.

Ids: `<s>` 0, `<pad>` 1, `</s>` 2, `<unk>` 3, then the 256 bytes (with byte fallback), the merges in order, the
characters. `<mask>` is size − 1 and lies outside the model, which holds the size − 1 others.

The special strings mean nothing in a text: `Tokenizer` encodes a literal "<s>" or "<mask>" as ordinary characters, so
no document can smuggle one in. Hugging Face tokenizers do parse them, which users of `fill-mask` rely on, and the export
leaves that on; `AutoTokenizer.from_pretrained(directory, split_special_tokens=True)` turns it off, and then the ids
agree on such text too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import sentencepiece

from pipeline.errors import ConfigError, IntegrityError, StageError

if TYPE_CHECKING:
    from pipeline.text.word_encoder import WordEncoder

SPECIALS: Mapping[str, int] = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}
"""Piece -> id of the specials inside the model; `MASK` is outside it, with id size − 1."""
MASK = "<mask>"
SPACE = "▁"
VOCABULARY_FILE = "vocabulary.model"
MAX_WORD_CHARACTERS = 4_096
"""Longest word that `train` takes; `words.split_words` gives none over 65, and sentencepiece aborts at 65,535."""
I64 = np.ndarray[Any, np.dtype[np.int64]]

Words = Callable[[], Iterable[tuple[pa.Array, I64]]]
"""Gives words (large_string) and their counts, a part of all at a time; called anew for each pass over them. A word may come more than once."""


def train(
    counts: Mapping[str, int] | Iterable[tuple[str, int]],
    *,
    size: int,
    byte_fallback: bool = True,
    character_coverage: float = 0.9995,
    required_chars: str = "",
    split_digits: bool = False,
) -> bytes:
    """Train a BPE vocabulary (Sennrich et al. 2016) and return the bytes of a sentencepiece model.

    The pieces are those that sentencepiece itself would find on the raw text. The same counts give the same bytes, whatever their order.

    Args:
        counts: word -> how often, or such pairs (equal words are summed), words as `words.split_words` gives them.
        size: ids in all, `<mask>` included.
        byte_fallback: spend 256 ids so that a character outside the vocabulary becomes its UTF-8 bytes, not `<unk>`.
        character_coverage: share of all counted characters that get an id of their own; the rarest are left out.
        required_chars: characters that get an id whatever their count.
        split_digits: never join two digits in one piece.

    Raises:
        StageError: no words; a word that cannot be trained on; the text supports fewer pieces than `size`, or needs more.
        ConfigError: `size` or `character_coverage` out of range.
    """
    summed: dict[str, int] = {}
    for word, count in counts.items() if isinstance(counts, Mapping) else counts:
        if count <= 0:
            raise StageError(f"vocabulary: word {word!r} has count {count}; counts are whole numbers above 0")
        summed[word] = summed.get(word, 0) + int(count)
    part = (pa.array(list(summed), pa.large_string()), np.array(list(summed.values()), np.int64))
    return train_words(
        lambda: [part], size=size, byte_fallback=byte_fallback, character_coverage=character_coverage, required_chars=required_chars, split_digits=split_digits
    )  # fmt: skip


def train_words(
    words: Words,
    *,
    size: int,
    byte_fallback: bool = True,
    character_coverage: float = 0.9995,
    required_chars: str = "",
    split_digits: bool = False,
    controls: Sequence[str] = (),
    threads: int = 1,
) -> bytes:
    """`train` from columns, a part at a time: memory follows the characters of distinct words, about 7 bytes each, never the size of the corpus.

    controls: further ids that no text is encoded to, such as `language_token` gives; they come behind all pieces, before `<mask>`. threads: change nothing but time.
    """
    # Compiled code that only training needs.
    from pipeline.text.alphabet import POINTS, add_points, chosen
    from pipeline.text.fragments import Fragments, point_classes
    from pipeline.text.merges import merged_pieces

    if size < 8:
        raise ConfigError(f"vocabulary size is {size}; it must hold 4 specials, <mask> and some pieces: give at least 8")
    if not 0.98 <= character_coverage <= 1.0:
        raise ConfigError(f"character_coverage is {character_coverage}; allowed is 0.98 to 1.0 (as sentencepiece has it)")
    sizes, sums_TP = [(0, 0)] * threads, np.zeros((threads, POINTS), np.int64)

    def survey(thread: int, part: pa.Array, counts: I64) -> None:
        check_words(part)
        add_points(*_utf8(part), counts, sums_TP[thread])
        sizes[thread] = (sizes[thread][0] + int(pc.sum(pc.utf8_length(part)).as_py() or 0), sizes[thread][1] + len(part))

    _side_by_side(survey, words(), threads)
    sums, held = sums_TP.sum(axis=0), sum(each for _, each in sizes)
    if not held:
        raise StageError("vocabulary: there are no words to train on; is every document dropped?")
    alphabet = chosen(sums, set(required_chars) - {" ", SPACE, "\t", "\n"}, character_coverage)
    needed = len(SPECIALS) + (256 if byte_fallback else 0) + len(alphabet) + len(controls) + 1
    if needed > size:
        raise StageError(
            f"vocabulary.size is {size}, but specials, {'bytes, ' if byte_fallback else ''}and single characters alone take {needed}; "
            f"give a size above {needed} or lower coverage and language_coverage",
            needed=needed,
        )
    fragments = Fragments(point_classes(alphabet, split_digits), sizes)
    _side_by_side(lambda thread, part, counts: fragments.add(thread, *_utf8(part), counts), words(), threads)
    merged = merged_pieces(fragments, alphabet, size - needed, threads)
    if len(merged) < size - needed:
        most = needed + len(merged)
        raise StageError(f"vocabulary.size is {size}, but this text supports at most {most}; give size={most} or more text", at_most=most)
    scored = [(piece, -float(rank)) for rank, piece in enumerate([*merged, *map(chr, alphabet)])]
    return model_bytes(
        "bpe", scored, byte_fallback=byte_fallback, character_coverage=character_coverage, split_digits=split_digits, controls=controls
    )


def _side_by_side(work: Callable[[int, pa.Array, I64], None], parts: Iterable[tuple[pa.Array, I64]], threads: int) -> None:
    """Call `work` with the number of a thread and a part, the same thread for the same part each time, so many at once; no more parts than that are held."""
    waiting = iter(parts)
    with ThreadPoolExecutor(threads) as pool:
        while several := list(islice(waiting, threads)):
            list(pool.map(lambda pair: work(pair[0], *pair[1]), enumerate(several)))


def _utf8(words: pa.Array) -> tuple[Any, I64]:
    """The bytes of a large_string column without nulls, and where each value begins and the last ends."""
    offsets = np.frombuffer(words.buffers()[1], np.int64)[words.offset : words.offset + len(words) + 1]
    held = words.buffers()[2]
    return (np.frombuffer(held, np.uint8) if held is not None else np.zeros(0, np.uint8)), offsets


def check_words(words: pa.Array) -> None:
    """Refuse words that no piece could hold, or that sentencepiece would skip in silence or abort on.

    Raises:
        StageError: the message names the first of them.
    """
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


def model_bytes(
    kind: Literal["bpe", "unigram"],
    scored: Sequence[tuple[str, float]],
    *,
    byte_fallback: bool,
    character_coverage: float,
    split_digits: bool,
    controls: Sequence[str] = (),
    charsmap: bytes = b"",
) -> bytes:
    """A sentencepiece model of these pieces with their scores, in this order behind the specials and bytes, before `controls`; nothing in it tells of the run that made it.

    charsmap: sentencepiece's table of a normaliser, which an imported vocabulary may bring; none changes nothing.
    """
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()
    normal, unknown, control, byte = 1, 2, 3, 6  # ModelProto.SentencePiece.Type
    for piece in SPECIALS:
        proto.pieces.add(piece=piece, score=0.0, type=unknown if piece == "<unk>" else control)
    for value in range(256 if byte_fallback else 0):
        proto.pieces.add(piece=f"<0x{value:02X}>", score=0.0, type=byte)
    for piece, score in scored:
        proto.pieces.add(piece=piece, score=score, type=normal)
    for piece in controls:
        proto.pieces.add(piece=piece, score=0.0, type=control)
    spec = proto.trainer_spec
    spec.model_type = {"unigram": 1, "bpe": 2}[kind]
    spec.vocab_size, spec.byte_fallback, spec.split_digits = len(proto.pieces), byte_fallback, split_digits
    spec.character_coverage, spec.input_format = character_coverage, "tsv"
    spec.bos_id, spec.pad_id, spec.eos_id, spec.unk_id = (SPECIALS[piece] for piece in ("<s>", "<pad>", "</s>", "<unk>"))
    proto.normalizer_spec.name = "imported" if charsmap else "identity"
    if charsmap:
        proto.normalizer_spec.precompiled_charsmap = charsmap
    proto.normalizer_spec.add_dummy_prefix, proto.normalizer_spec.remove_extra_whitespaces = True, False
    return bytes(proto.SerializeToString(deterministic=True))


def language_token(lang: str) -> str:
    """The piece that stands for a language: for models that are told which one a text is in (XLM), or shall write (denoising)."""
    return f"<lang:{lang}>"


def opened_model(model: bytes) -> Any:
    """The message in a model's bytes: pieces, the options of its training, its normaliser.

    Raises:
        ValueError: the bytes hold no such message.
    """
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()
    try:
        proto.ParseFromString(model)
    except Exception as error:
        raise ValueError(f"{len(model)} bytes that are no sentencepiece model") from error
    return proto


def _kind(model: bytes) -> Literal["bpe", "unigram"]:
    kind = opened_model(model).trainer_spec.model_type
    if kind not in (1, 2):
        raise IntegrityError(f"vocabulary: a sentencepiece model of type {kind}; allowed are unigram (1) and BPE (2)")
    return "unigram" if kind == 1 else "bpe"


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
        self.kind: Literal["bpe", "unigram"] = _kind(model)
        self.charsmap: bytes = opened_model(model).normalizer_spec.precompiled_charsmap
        """sentencepiece's table of a normaliser, where an imported vocabulary brought one."""
        self.language_ids: dict[str, int] = {
            piece[6:-1]: index
            for index in range(len(SPECIALS), inside)
            if self._processor.is_control(index) and (piece := self._processor.id_to_piece(index)).startswith("<lang:")
        }
        """Id of each language's own token, where the vocabulary has them."""
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

    @cached_property
    def compiled(self) -> WordEncoder | None:
        """Compiled code that gives the ids of words, where the vocabulary is of the kind that it knows."""
        from pipeline.text.word_encoder import WordEncoder

        return WordEncoder.of(self)

    def encode_words(self, words: Sequence[str] | pa.Array) -> tuple[np.ndarray[Any, np.dtype[Any]], I64]:
        """Ids of words as `words.split_words` gives them: `▁` stands for the space before one, and none is added.

        Returns:
            all ids one behind the other, and how many each word has, shape (words,).
        """
        column = words if isinstance(words, pa.Array) else pa.array(words, pa.large_string())
        if self.compiled is not None and len(column):
            return self.compiled.encode(*_utf8(column.cast(pa.large_string())))
        rows = self._words_processor().encode(column.to_pylist(), out_type=int, num_threads=1)
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        return np.fromiter(chain.from_iterable(rows), np.int64, int(lengths.sum())), lengths

    def _words_processor(self) -> sentencepiece.SentencePieceProcessor:
        """The model without the space before a text."""
        if self._words is None:
            proto = opened_model(self._processor.serialized_model_proto())
            proto.normalizer_spec.add_dummy_prefix = False
            self._words = sentencepiece.SentencePieceProcessor(model_proto=bytes(proto.SerializeToString()))
        return self._words

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

    def normalised(self, word: str) -> str:
        """A word as it is when it is cut into pieces: changed only where an imported vocabulary brought a normaliser."""
        return str(self._words_processor().normalize(word)) if self.charsmap else word

    def scores(self) -> list[float]:
        """The score of each id but `<mask>`: in BPE minus its rank, in a unigram model the logarithm of its probability."""
        return [self._processor.get_score(index) for index in range(self.mask_id)]

    def is_ordinary(self, index: int) -> bool:
        """Whether an id stands for text: no special, no byte, no language's token."""
        processor = self._processor
        outside = index >= self.mask_id
        return not (
            outside or processor.is_control(index) or processor.is_unknown(index) or processor.is_byte(index) or processor.is_unused(index)
        )

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
