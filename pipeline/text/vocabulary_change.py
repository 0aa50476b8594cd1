"""A vocabulary cut to what a corpus needs, or grown by new pieces; and what each id of the result was before.

    model, words of the corpus -> needed (ids, a part of the words at a time, united) -> kept_only -> a smaller model
    model, new pieces in order -> grown -> a larger one
    both -> origins -> rows (which old rows of an embedding each new row is made of)

Cutting keeps every piece that comes up while a word is encoded: in BPE the pieces on the way too, since the last one is reached through them. A piece that never comes
up was never the best choice, so leaving it out changes no choice, and the kept text has the same pieces as before. New pieces stand behind the old: in BPE
they are merged after them, so an old word changes only where new pieces join what the old ones leave apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pipeline.text.imported import NONE
from pipeline.text.tokenizer import SPECIALS, Tokenizer, model_bytes, opened_model


def needed(tokenizer: Tokenizer, words: Iterable[str]) -> set[int]:
    """Ids that come up while the words (as `words.split_words` gives them) are encoded, in BPE on the way too."""
    listed = list(words)
    ids, _ = tokenizer.encode_words(listed)
    found = set(ids.tolist())
    if tokenizer.kind == "bpe":
        scores = tokenizer.scores()
        ranks = {piece: (scores[index], index) for index, piece in enumerate(tokenizer.pieces()) if tokenizer.is_ordinary(index)}
        seen: set[str] = set()
        for word in map(tokenizer.normalised, listed):
            _on_the_way(word, ranks, found, seen)
    return found


def _on_the_way(word: str, ranks: Mapping[str, tuple[float, int]], found: set[int], seen: set[str]) -> None:
    """Encode as sentencepiece does, the best pair first, of equal ones the left; note all pieces."""
    for part in _parts(word):
        if part in seen:
            continue
        seen.add(part)
        symbols = list(part)
        found.update(ranks[symbol][1] for symbol in symbols if symbol in ranks)
        while len(symbols) > 1:
            best, at = min(
                (-ranks[pair][0], place) if (pair := symbols[place] + symbols[place + 1]) in ranks else (float("inf"), place)
                for place in range(len(symbols) - 1)
            )
            if best == float("inf"):
                break
            symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
            found.add(ranks[symbols[at]][1])


def _parts(text: str) -> list[str]:
    """A text that a normaliser gave spaces to, at its marks of a word's begin."""
    return [part for part in text.replace("▁", "\n▁").split("\n") if part]


def kept_only(tokenizer: Tokenizer, model: bytes, ids: Iterable[int]) -> tuple[bytes, list[int]]:
    """The vocabulary of the given ids, the specials, bytes, tokens of languages and `<mask>`, in the old order; and the old id of each new one.

    A unigram model keeps its least likely piece too: what an unknown character costs is reckoned from it.
    """
    wanted = set(ids)
    scores = tokenizer.scores()
    if tokenizer.kind == "unigram":
        wanted.add(
            min((index for index in range(tokenizer.mask_id) if tokenizer.is_ordinary(index)), key=lambda index: (scores[index], index))
        )
    ordinary = [index for index in range(tokenizer.mask_id) if tokenizer.is_ordinary(index) and index in wanted]
    pieces = tokenizer.pieces()
    kept = _model(tokenizer, model, [(pieces[index], scores[index]) for index in ordinary])
    return kept, [*range(len(SPECIALS)), *sorted(tokenizer.byte_ids), *ordinary, *tokenizer.language_ids.values(), tokenizer.mask_id]


def grown(tokenizer: Tokenizer, model: bytes, new: Sequence[tuple[str, float]]) -> tuple[bytes, list[int]]:
    """The vocabulary with further pieces behind its own, those that it has already left out; and the old id of each id, `NONE` of a new one.

    In BPE the order of the new pieces counts and their scores do not; in a unigram model the scores are logarithms of probabilities.
    """
    pieces, scores = tokenizer.pieces(), tokenizer.scores()
    ordinary = [index for index in range(tokenizer.mask_id) if tokenizer.is_ordinary(index)]
    held = set(pieces)
    added = [(piece, score) for piece, score in dict(new).items() if piece not in held]
    if tokenizer.kind == "bpe":
        last = min((scores[index] for index in ordinary), default=0.0)
        added = [(piece, last - 1 - at) for at, (piece, _) in enumerate(added)]
    made = _model(tokenizer, model, [*((pieces[index], scores[index]) for index in ordinary), *added])
    front = [*range(len(SPECIALS)), *sorted(tokenizer.byte_ids), *ordinary]
    return made, [*front, *[NONE] * len(added), *tokenizer.language_ids.values(), tokenizer.mask_id]


def _model(tokenizer: Tokenizer, model: bytes, scored: Sequence[tuple[str, float]]) -> bytes:
    proto = opened_model(model)
    languages = [tokenizer.pieces()[index] for index in tokenizer.language_ids.values()]
    return model_bytes(
        tokenizer.kind, scored, byte_fallback=bool(tokenizer.byte_ids), character_coverage=proto.trainer_spec.character_coverage,
        split_digits=proto.trainer_spec.split_digits, controls=languages, charsmap=proto.normalizer_spec.precompiled_charsmap,
    )  # fmt: skip


def rows(old: Tokenizer, new: Tokenizer, origins: Sequence[int]) -> list[list[int]]:
    """The old ids that the embedding of each new id is the mean of: itself where it was there, else what its text splits into; none where nothing is known of it.

    `origins`: the old id of each new id, or `NONE`.
    """
    found = [[origin] if origin != NONE else [] for origin in origins]
    fresh = [index for index, origin in enumerate(origins) if origin == NONE and new.is_ordinary(index)]
    pieces = new.pieces()
    ids, lengths = old.encode_words([pieces[index] for index in fresh])
    at = 0
    for index, length in zip(fresh, lengths.tolist(), strict=True):
        found[index] = [int(piece) for piece in ids[at : at + length] if piece != SPECIALS["<unk>"]]
        at += length
    return found


def composed(first: Sequence[int], second: Sequence[int]) -> list[int]:
    """Origins of origins: from the newest ids to the oldest."""
    return [NONE if origin == NONE else first[origin] for origin in second]
