"""The vocabulary: training, coding, export."""

import os
import random
from collections import Counter
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import sentencepiece

from pipeline.errors import ConfigError, IntegrityError, StageError
from pipeline.text.normalise import normalise
from pipeline.text.tokenizer import MASK, SPECIALS, Tokenizer, train
from pipeline.text.tokenizer_export import export_huggingface, verify_export
from pipeline.text.words import count_words

DATA = Path(os.environ.get("XLM_PIPELINE_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
TEXTS = [
    "All human beings are born free and equal in dignity and rights.",
    "They are endowed with reason and conscience and should act towards one another in a spirit of brotherhood.",
    "Alle Menschen sind frei und gleich an Würde und Rechten geboren. Sie sind mit Vernunft und Gewissen begabt.",
    "Все люди рождаются свободными и равными в своем достоинстве и правах.",
    "人人生而自由,在尊严和权利上一律平等。他们赋有理性和良心。",
    "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์",
    "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता",
    "يولد جميع الناس أحراراً متساوين في الكرامة والحقوق",
]
HORRIBLE = [
    "", "a", " a", "   a", "a  b ", "\n", "a\nb\n", "\t", "<s>", "a <mask> b", "</s><pad>", "<0x0A>", "<unk>", " ⁇ ",
    "👩‍👩‍👧‍👦 🇩🇪", "e\u0301\u0323",
    "𠜎𠜱 龘", "١٢٣ 123 १२३", "\u200bก\u200b", "\ufeffx", "\0", "￾", "a" * 13, "." * 9, "abababab", "ก็ก็ก็", "!!!???", "\r\n",
    "\u2028", "x" * 5_000,
    "0" * 10, '"\\/{}[]', "ﷺ", "Å Å", "ᄒ한", "𞤀𞤣", "\U0010ffff", "na\u00a0b",
]  # fmt: skip


@pytest.fixture(scope="module")
def model() -> bytes:
    return train(count_words(TEXTS), size=700)


@pytest.fixture(scope="module")
def exported(model: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("exported")
    export_huggingface(model, directory, max_length=512)
    return directory


def test_specials_bytes_and_mask_have_their_ids_and_size_counts_everything(model: bytes) -> None:
    tokenizer = Tokenizer(model)
    pieces = tokenizer.pieces()
    assert tokenizer.size == 700 == len(pieces) == len(set(pieces))
    assert [pieces[index] for index in SPECIALS.values()] == list(SPECIALS)
    assert tokenizer.mask_id == 699 == tokenizer.id_of(MASK) and pieces[-1] == MASK
    assert sorted(pieces[index] for index in tokenizer.byte_ids) == sorted(f"<0x{byte:02X}>" for byte in range(256))
    assert all(tokenizer.id_of(piece) == index for index, piece in enumerate(pieces))
    with pytest.raises(KeyError):
        tokenizer.id_of("no such piece")


@pytest.mark.parametrize("text", HORRIBLE)
def test_horrible_strings_come_back_whole(model: bytes, text: str) -> None:
    tokenizer = Tokenizer(model)
    for form in (text, normalise(text)):
        (ids,) = tokenizer.encode([form])
        assert ids.dtype == np.uint16
        assert tokenizer.decode(ids) == form


def test_special_strings_in_a_text_are_plain_characters(model: bytes) -> None:
    tokenizer = Tokenizer(model)
    for ids in tokenizer.encode([*SPECIALS, MASK, "a <s> b <mask></s>"]):
        assert not set(ids.tolist()) & {*SPECIALS.values(), tokenizer.mask_id}


def test_decoding_drops_specials_and_refuses_ids_outside(model: bytes) -> None:
    tokenizer = Tokenizer(model)
    (ids,) = tokenizer.encode(["free and equal"])
    assert tokenizer.decode([0, *ids, tokenizer.mask_id, 2, 1]) == "free and equal"
    for wrong in ([700], [-1]):
        with pytest.raises(ValueError, match="0 to 699"):
            tokenizer.decode(wrong)


def test_training_gives_the_same_bytes_for_any_order_and_folder(model: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = list(count_words(TEXTS).items())
    random.Random(1).shuffle(pairs)
    monkeypatch.chdir(tmp_path)
    halves = [(word, part) for word, count in pairs for part in ([count - 1, 1] if count > 1 else [count])]
    assert train(halves, size=700) == model
    assert list(tmp_path.iterdir()) == []
    assert str(tmp_path).encode() not in model


def test_training_on_counts_is_training_on_the_raw_text() -> None:
    source = random.Random(5)
    stems = ["".join(source.choices("etaoinshrdlu", k=source.randint(2, 5))) for _ in range(120)]
    lines = [" ".join(source.choice(stems) + source.choice(["", "s", "ing", "ed"]) for _ in range(12)) for _ in range(400)]
    from_counts = set(Tokenizer(train(count_words(lines), size=600)).pieces()) - {MASK}
    written = BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=written, model_type="bpe", vocab_size=599, normalization_rule_name="identity",
        remove_extra_whitespaces=False, byte_fallback=True, bos_id=0, pad_id=1, eos_id=2, unk_id=3, minloglevel=2,
    )  # fmt: skip
    raw = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
    from_text = {raw.id_to_piece(index) for index in range(len(raw))}
    assert len(from_counts & from_text) >= 0.99 * 599


def test_digits_stay_apart_when_told_and_required_characters_are_in() -> None:
    words = {"▁2024": 50, "▁2025": 40, "▁year": 30, "▁yearly": 20}
    assert any(sum(map(str.isdigit, piece)) > 1 for piece in Tokenizer(train(words, size=280, byte_fallback=True)).pieces()[260:])
    split = Tokenizer(train(words, size=275, split_digits=True, required_chars="龘ß"))
    assert not any(sum(map(str.isdigit, piece)) > 1 for piece in split.pieces()[260:])
    assert {"龘", "ß"} <= set(split.pieces())


def test_words_that_look_like_specials_do_not_break_training(tmp_path: Path) -> None:
    words = {"▁<s>": 500, "▁a<s>": 400, "<s>b": 300, "▁<mask>": 300, "x<0x0A>": 500, "<unk>": 900, "▁ab": 3}
    model = train(words, size=280)
    export_huggingface(model, tmp_path, max_length=64)
    assert verify_export(model, tmp_path, ["<s> <0x0A>", "a<unk>", "<mask>", "", "<s>x<0x0A>"]) == 5


@pytest.mark.parametrize(
    ("counts", "size", "words"),
    [
        ({"▁ab": 5, "▁b": 2}, 400, "supports at most 267; give size=267"),
        ({"▁ab": 5, "▁b": 2}, 100, "take 264"),
        ({}, 400, "no words"),
        ({"▁a b": 1}, 400, "space, tab"),
        ({"▁a\tb": 1}, 400, "space, tab"),
        ({"▁a▅b": 1}, 400, "U+2585"),
        ({"▁" + "a" * 5_000: 1}, 400, "5001 characters, allowed are 1 to 4096"),
        ({"▁a": 0}, 400, "count 0"),
    ],
)
def test_what_cannot_be_trained_on_is_said(counts: dict[str, int], size: int, words: str) -> None:
    with pytest.raises(StageError) as error:
        train(counts, size=size)
    assert words in str(error.value)


def test_the_suggested_size_works() -> None:
    assert Tokenizer(train({"▁ab": 5, "▁b": 2}, size=267)).size == 267


def test_sizes_and_shares_out_of_range_are_refused_and_so_are_bytes_that_are_no_model() -> None:
    with pytest.raises(ConfigError, match="at least 8"):
        train({"▁a": 1}, size=5)
    with pytest.raises(ConfigError, match=r"character_coverage is 0\.5"):
        train({"▁a": 1}, size=400, character_coverage=0.5)
    with pytest.raises(IntegrityError):
        Tokenizer(b"no model at all")


def test_without_byte_fallback_what_is_outside_is_unknown_on_both_sides(tmp_path: Path) -> None:
    model = train(count_words(TEXTS[:3]), size=150, byte_fallback=False)
    assert not Tokenizer(model).byte_ids
    assert SPECIALS["<unk>"] in Tokenizer(model).encode(["free 龘龘龘 and"])[0]
    export_huggingface(model, tmp_path, max_length=64)
    assert verify_export(model, tmp_path, [*TEXTS, *HORRIBLE]) == len(TEXTS) + len(HORRIBLE)


def test_the_export_gives_the_same_ids_on_text_and_on_horrible_strings(model: bytes, exported: Path) -> None:
    lines = [*TEXTS, *HORRIBLE, *(normalise(text) for text in HORRIBLE)]
    assert verify_export(model, exported, lines) == len(lines)


@pytest.mark.parametrize("seed", range(8))
def test_merges_agree_on_random_strings_of_few_letters_where_ties_are_many(seed: int, tmp_path: Path) -> None:
    source = random.Random(seed)
    letters = "abc"[: 2 + seed % 2]
    words = Counter("▁" * source.randint(0, 1) + "".join(source.choices(letters, k=source.randint(1, 12))) for _ in range(400))
    model = train(words, size=300)
    export_huggingface(model, tmp_path, max_length=64)
    lines = ["".join(source.choices(letters + " ", k=source.randint(1, 40))) for _ in range(500)] + ["a" * n for n in range(40)]
    assert verify_export(model, tmp_path, lines) == 540


def test_an_export_that_differs_is_caught_with_the_line_named(model: bytes, exported: Path) -> None:
    other = train(count_words(TEXTS[::-1] * 2 + TEXTS[3:]), size=700)
    with pytest.raises(IntegrityError, match=r"line \d+ '"):
        verify_export(other, exported, TEXTS)
    with pytest.raises(IntegrityError, match="700 ids"):
        verify_export(train(count_words(TEXTS), size=690), exported, TEXTS)


def test_the_exported_tokenizer_has_the_templates_specials_and_length(model: bytes, exported: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(exported)
    first, second = (ids.tolist() for ids in Tokenizer(model).encode(["free", "equal"]))
    assert tokenizer("free").input_ids == [0, *first, 2]
    assert tokenizer("free", "equal").input_ids == [0, *first, 2, 2, *second, 2]
    assert tokenizer.model_max_length == 512 and len(tokenizer) == 700
    assert (tokenizer.cls_token_id, tokenizer.pad_token_id, tokenizer.sep_token_id, tokenizer.unk_token_id) == (0, 1, 2, 3)
    assert tokenizer.mask_token_id == 699
    assert 699 in tokenizer("free <mask> equal").input_ids
    assert tokenizer.decode(tokenizer("free 龘  equal").input_ids, skip_special_tokens=True) == "free 龘  equal"
    assert not (exported / "sentencepiece.bpe.model").exists()


def test_xlm_robertas_own_class_gives_the_same_ids_or_an_error(model: bytes, exported: Path) -> None:
    from transformers import XLMRobertaTokenizer

    try:
        tokenizer = XLMRobertaTokenizer.from_pretrained(exported)
    except (TypeError, ValueError, OSError):
        return
    for text, ids in zip(TEXTS, Tokenizer(model).encode(TEXTS), strict=True):
        assert tokenizer(text).input_ids == [0, *ids.tolist(), 2]


def test_the_export_is_the_same_bytes_every_time(model: bytes, exported: Path, tmp_path: Path) -> None:
    export_huggingface(model, tmp_path, max_length=512)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["special_tokens_map.json", "tokenizer.json", "tokenizer_config.json", "vocabulary.model"]
    assert all((tmp_path / name).read_bytes() == (exported / name).read_bytes() for name in names)


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no real data at {DATA}; XLM_PIPELINE_TEST_DATA names its folder")
def test_ids_agree_on_a_thousand_lines_in_a_hundred_languages_and_more(tmp_path: Path) -> None:
    files = sorted((DATA / "sib200").glob("*/train.tsv"))
    lines = [normalise(line.split("\t")[2]) for path in files for line in path.read_text(encoding="utf-8").split("\n")[1:8] if line.strip()]
    assert len(files) >= 100 and len(lines) >= 1_000
    model = train(count_words(lines), size=6_000, character_coverage=0.998)
    export_huggingface(model, tmp_path, max_length=512)
    assert verify_export(model, tmp_path, lines) == len(lines)
    tokenizer = Tokenizer(model)
    assert [tokenizer.decode(ids) for ids in tokenizer.encode(lines)] == lines
