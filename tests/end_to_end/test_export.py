"""An exported directory is opened by others: with the site's libraries alone, from a process that cannot import this program.

lines in ≥100 languages -> a small vocabulary and an encoder, made here -> directory -> another process: ids and logits -> compared with ours
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
import torch

from pipeline.model.build import build_masked_lm
from pipeline.model.export import export_huggingface as export_model
from pipeline.model.masked_lm import MaskedLM
from pipeline.model.sizes import named_size
from pipeline.storage import Storage
from pipeline.text import languages, tokenizer, tokenizer_export
from pipeline.text.normalise import normalise
from pipeline.text.words import split_words
from tests.end_to_end import tiny

LENGTH = 24
"""Tokens a row in the model: short, so that the logits of a thousand lines fit."""
SIZE = 2000
HORRIBLE = (
    " ", "a", "  two  spaces  ", "trailing ", "\u00a0no-break", "e\u0301 é", "ﬁ ﬂ ²", "👩‍👩‍👧‍👦🏴󠁧󠁢󠁥󠁮󠁧󠁿", "\u200f\u202eabc\u202c", "\u2028line\u2029", "\u0000\u0007\x1b[31m",
    "<s> </s> <mask> <unk> <pad>", "▁▁ ▁", "a▁b", "𐀀𝔘𠜎", "0123456789" * 4, "١٢٣", "क्षि त्र", "ཨོཾ་མ་ཎི", "ဗမာစာ", "ภาษาไทยไม่มีวรรค", "日本語と中文与한국어",
    "\ufeffmark", "a\tb", "x" * 300, "ᏣᎳᎩ ⴰⵎⴰⵣⵉⵖ", "\ue000\U000f0000", "'’ʼ`´", "…—–‑", "؟،؛", "<0x41>", "[MASK]",
)  # fmt: skip

READER = """
import json, sys
sys.path[:] = [path for path in sys.path if path] + sys.argv[3:]
class Barrier:
    # The README's test command installs this program beside its libraries; here it must not be found even so.
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in ("pipeline", "stages", "tests"):
            raise ModuleNotFoundError(f"{name} is not to be had here")
sys.meta_path.insert(0, Barrier)
for package in ("pipeline", "stages", "tests"):
    try:
        __import__(package)
    except ModuleNotFoundError:
        continue
    raise AssertionError(f"{package} can be imported")
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer
torch.set_num_threads(1)
directory, lines = sys.argv[1], json.load(open(sys.argv[2], encoding="utf-8"))
tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
ids = tokenizer(lines, split_special_tokens=True, truncation=False, verbose=False)["input_ids"]
model = AutoModelForMaskedLM.from_pretrained(directory, local_files_only=True, use_safetensors=True).eval()
most = model.config.max_position_embeddings - 2
logits = []
with torch.no_grad():
    for start in range(0, len(lines), 50):
        batch = tokenizer(lines[start : start + 50], split_special_tokens=True, truncation=True, max_length=most, padding=True, return_tensors="pt")
        found = model(**batch).logits
        logits += [row[mask.bool()] for row, mask in zip(found, batch["attention_mask"])]
import numpy
numpy.savez(sys.argv[2] + ".npz", logits=torch.cat(logits).numpy())
other = "none"
try:
    from transformers import XLMRobertaTokenizer
    theirs = XLMRobertaTokenizer.from_pretrained(directory, local_files_only=True)
    other = theirs(lines, split_special_tokens=True, truncation=False, verbose=False)["input_ids"]
except Exception as error:
    other = f"{type(error).__name__}: {error}"
assert not any(name.partition(".")[0] in ("pipeline", "stages") for name in sys.modules)
json.dump({"ids": ids, "other": other, "length": tokenizer.model_max_length, "class": type(model).__name__}, sys.stdout)
"""


@pytest.fixture(autouse=True)
def compute(one_thread: None) -> None:
    """These tests compute on one thread."""


def _lines() -> list[tuple[str, str]]:
    """(language, line), at least 1,000 in at least 100 languages: real text where there is some, else made up in each language's script."""
    folder = Path(__file__).resolve().parents[3] / "shared" / "data" / "sib200"
    found = []
    if folder.is_dir():
        for path in sorted(folder.glob("*/train.tsv")):
            rows = path.read_text(encoding="utf-8").splitlines()[1:7]
            found += [(path.parent.name, normalise(row.split("\t")[2])) for row in rows]
    if len(found) < 900:
        rng = random.Random(7)
        letters = _letters()
        for language in languages.known():
            words = ["".join(rng.choices(letters[language.script], k=rng.randint(1, 9))) for _ in range(30)]
            between = " " if language.spaced else ""
            found += [(language.code, between.join(rng.choices(words, k=12)) + ".") for _ in range(6)]
    return [*found, *(("zxx", text) for text in HORRIBLE)]


def _letters() -> dict[str, str]:
    """A stretch of letters for each script, by its code."""
    starts = {
        "Latn": (0x61, 26), "Cyrl": (0x430, 32), "Grek": (0x3B1, 24), "Arab": (0x628, 34), "Hebr": (0x5D0, 27), "Deva": (0x905, 53), "Beng": (0x995, 20),
        "Thai": (0xE01, 46), "Hang": (0xAC00, 400), "Jpan": (0x3042, 80), "Hans": (0x4E00, 400), "Hant": (0x5000, 400), "Ethi": (0x1200, 80), "Geor": (0x10D0, 33),
        "Armn": (0x561, 38), "Taml": (0xB85, 50), "Telu": (0xC05, 50), "Khmr": (0x1780, 35), "Mymr": (0x1000, 40), "Laoo": (0xE81, 40), "Tibt": (0xF40, 40),
    }  # fmt: skip
    named = {script: "".join(chr(start + n) for n in range(count) if chr(start + n).isalpha()) for script, (start, count) in starts.items()}
    return {language.script: named.get(language.script, named["Latn"]) for language in languages.known()}


def _read_elsewhere(directory: Path, lines: list[str], folder: Path) -> tuple[dict[str, Any], np.ndarray[Any, Any]]:
    """What a process without this program finds: ids, the other class's ids or error, and logits of all positions."""
    given = folder / "lines.json"
    given.write_text(json.dumps(lines), encoding="utf-8")
    site = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    # -I: no PYTHONPATH, no current folder; -S: no .pth file that an editable install may have left.
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", READER, str(directory), str(given), *site], cwd=folder, env={"HOME": str(folder), "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), np.load(f"{given}.npz")["logits"]


def _ids(model: bytes, lines: list[str]) -> list[list[int]]:
    """By sentencepiece itself, with XLM-R's specials around them."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    return [[0, *row, 2] for row in processor.encode(lines)]


def _our_logits(module: MaskedLM, rows: list[list[int]]) -> np.ndarray[Any, Any]:
    """Logits of all positions, rows of one length together and so without padding; cut where the reader's tokenizer cuts."""
    cut = [row if len(row) <= LENGTH else [*row[: LENGTH - 1], 2] for row in rows]
    found: list[Any] = [None] * len(rows)
    module.eval()
    with torch.no_grad():
        for length in sorted({len(row) for row in cut}):
            numbers = [number for number, row in enumerate(cut) if len(row) == length]
            ids_BT = torch.tensor([cut[number] for number in numbers])
            positions_BT = torch.arange(2, 2 + length).expand_as(ids_BT)
            logits_BTV = module.model(input_ids=ids_BT, attention_mask=torch.ones_like(ids_BT), position_ids=positions_BT).logits
            for number, logits_TV in zip(numbers, logits_BTV, strict=True):
                found[number] = logits_TV
    return torch.cat(found).numpy()


def _compare(directory: Path, model: bytes, module: MaskedLM, lines: list[str], folder: Path) -> None:
    found, logits = _read_elsewhere(directory, lines, folder)
    expected = _ids(model, lines)
    wrong = [line for line, ours, theirs in zip(lines, expected, found["ids"], strict=True) if ours != theirs]
    assert not wrong, wrong[:5]
    assert found["length"] == LENGTH
    assert found["class"] == "XLMRobertaForMaskedLM"
    assert isinstance(found["other"], str) or found["other"] == expected  # an error, or the same ids: never others
    ours = _our_logits(module, expected)
    assert ours.shape == logits.shape
    assert float(np.abs(ours - logits).max()) <= 1e-5


def test_a_process_without_this_program_gives_sentencepieces_ids_and_our_logits(tmp_path: Path) -> None:
    lines = _lines()
    assert len(lines) >= 1000
    assert len({lang for lang, _ in lines}) >= 100
    counts: dict[str, int] = {}
    for lang, line in lines[::5]:  # the rest is text that the vocabulary has not seen
        for word in split_words(line) if lang != "zxx" else ():
            counts[word] = counts.get(word, 0) + 1
    model = tokenizer.train(counts, size=SIZE, character_coverage=0.98)
    module = MaskedLM(build_masked_lm(named_size("tiny"), SIZE, seed=3, dropout=0.1, max_length=LENGTH))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel())))
    export_model(module, tmp_path / "model")
    tokenizer_export.export_huggingface(model, tmp_path / "model", LENGTH)
    _compare(tmp_path / "model", model, module, [line for _, line in lines], tmp_path)


@pytest.mark.slow
def test_the_directory_of_a_real_run_is_opened_the_same_way(tmp_path: Path) -> None:
    from pipeline.model.export import restore_weights
    from pipeline.training.checkpoint import load_checkpoint_weights

    file = tiny.make(tmp_path, stages={"pack": {"length": LENGTH}})
    done = tiny.run(file, "--until", "export", timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    storage = Storage.at(str(tmp_path / "storage"))
    made = tiny.manifests(tmp_path / "storage")

    def files(stage: str, slot: str) -> dict[str, Path]:
        return {
            name: storage.local(entry["path"], entry["sha256"]) for name, entry in made[stage]["content"]["outputs"][slot]["files"].items()
        }

    exported = files("export", "model")
    checkpoint = files("pretrain", "checkpoint")
    about = json.loads(checkpoint["training.json"].read_text())
    module = MaskedLM(
        build_masked_lm(
            named_size(about["model"]), about["vocabulary_size"], seed=about["seed"], dropout=about["dropout"], max_length=about["length"]
        )
    )
    (tmp_path / "final").mkdir()  # the files of a checkpoint lie where they were written, not in one folder
    for name, path in checkpoint.items():
        if name.startswith("final/"):
            (tmp_path / name).symlink_to(path)
    restore_weights(module, load_checkpoint_weights(tmp_path / "final"))
    vocabulary = files("vocabulary", "vocabulary")["vocabulary.model"].read_bytes()
    lines = [line for lang in tiny.WORDS for line in tiny.text(lang).splitlines() if line] + list(HORRIBLE)
    _compare(exported["model/config.json"].parent, vocabulary, module, lines, tmp_path)
