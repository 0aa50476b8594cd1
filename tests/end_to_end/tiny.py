"""A pipeline small enough to run whole in a test: four languages of made-up sentences, some pairs, a model of two layers.

    make(folder) -> folder/pipeline.yaml, text/<lang>.txt, pairs/<lang>-en.tsv; its storage is folder/storage
    run(file, …)  -> the command line in a process of its own

The text is drawn from short word lists by a seeded generator, so every call writes the same bytes. Some lines stand twice, so that `dedup` has something to drop.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.curve import Curve
from pipeline.storage import Storage

ROOT = Path(__file__).resolve().parent.parent.parent
DATA_STAGES = ("ingest", "clean", "heldout", "examples", "dedup", "card", "vocabulary", "encode", "pack")
"""The exact stages before any training."""

WORDS = {
    "en": "the river runs slowly past old houses and children play near water until evening when mother calls them home for bread "
    "with butter while father reads letters about distant mountains where snow never melts",
    "de": "der Fluss fließt langsam an alten Häusern vorbei und Kinder spielen nahe am Wasser bis zum Abend wenn die Mutter sie nach "
    "Hause ruft während Vater Briefe über ferne Berge liest wo Schnee niemals schmilzt",
    "ru": "река медленно течёт мимо старых домов и дети играют у воды до вечера когда мать зовёт их домой есть хлеб с маслом пока отец "
    "читает письма о далёких горах где снег никогда не тает",
    "hi": "नदी पुराने घरों के पास से धीरे बहती है और बच्चे पानी के किनारे शाम तक खेलते हैं जब माँ उन्हें रोटी खाने के लिए घर बुलाती है "
    "तब पिता दूर पहाड़ों के बारे में चिट्ठियाँ पढ़ते हैं जहाँ बर्फ कभी नहीं पिघलती",
}
DOCUMENTS = 60
PAIRS = 20


def sentence(rng: random.Random, lang: str) -> str:
    """A made-up sentence of 6 to 14 different words, with a number now and then."""
    words = rng.sample(list(dict.fromkeys(WORDS[lang].split())), rng.randint(6, 14))
    if rng.random() < 0.2:
        words.append(str(rng.randint(1, 9999)))
    return " ".join(words) + ("।" if lang == "hi" else ".")


def text(lang: str, documents: int = DOCUMENTS) -> str:
    """Documents of one to four lines, parted by blank lines; every twelfth is the one before it again."""
    rng = random.Random(f"tiny-{lang}")
    made: list[str] = []
    for number in range(documents):
        if number % 12 == 11:
            made.append(made[-1])
        else:
            made.append("\n".join(sentence(rng, lang) for _ in range(rng.randint(1, 4))))
    return "\n\n".join(made) + "\n"


def pairs(lang: str) -> str:
    """Lines of a made-up sentence, a tab, and another in English."""
    rng = random.Random(f"pairs-{lang}")
    return "".join(f"{sentence(rng, lang)}\t{sentence(rng, 'en')}\n" for _ in range(PAIRS))


def settings() -> dict[str, Any]:
    """The pipeline file as plain data."""
    return {
        "name": "tiny",
        "languages": list(WORDS),
        "storage": "storage",
        "stages": {
            "ingest": {
                "sources": [
                    {"kind": "text", "path": "text/{lang}.txt", "documents": "blank-line"},
                    {"kind": "tsv-pairs", "path": "pairs/{lang}-en.tsv", "lang_b": "en"},
                ],
                "unit_bytes": 4096,
            },
            "heldout": {"share": 0.1},
            "vocabulary": {"size": 700, "partitions": 2},
            "dedup": {"partitions": 2},
            "pack": {"length": 32},
            "pretrain": {"model": "tiny", "steps": 6, "global_batch": 4, "log_every": 1, "precision": "fp32"},
            "report": None,
        },
        "cluster": {"workers": 2},
    }


def merged(base: Any, over: Any) -> Any:
    """`over` laid over `base`: mappings key by key, anything else replaces."""
    if isinstance(base, Mapping) and isinstance(over, Mapping):
        return {**base, **{key: merged(base.get(key), value) for key, value in over.items()}}
    return over


def make(folder: Path, **overrides: Any) -> Path:
    """Write text and pipeline file into `folder` (made if need be); `overrides` are laid over the file's data: `stages={"pretrain": {"steps": 8}}`."""
    (folder / "text").mkdir(parents=True, exist_ok=True)
    (folder / "pairs").mkdir(exist_ok=True)
    for lang in WORDS:
        (folder / "text" / f"{lang}.txt").write_text(text(lang), encoding="utf-8")
        if lang != "en":
            (folder / "pairs" / f"{lang}-en.tsv").write_text(pairs(lang), encoding="utf-8")
    file = folder / "pipeline.yaml"
    file.write_text(json.dumps(merged(settings(), overrides), indent=1, ensure_ascii=False), encoding="utf-8")  # JSON is YAML 1.2
    return file


def command(file: Path, *args: str) -> list[str]:
    """The command line: `pipeline run FILE args…`; another command where the first of `args` names one: `plan`, `status`, …."""
    if args and args[0] in ("run", "plan", "status", "show", "doctor", "retrain", "gc"):
        return [sys.executable, "-m", "pipeline", args[0], str(file), *args[1:]]
    return [sys.executable, "-m", "pipeline", "run", str(file), *args]


def environment(env: Mapping[str, str] | None = None) -> dict[str, str]:
    """The process's own environment with the program on the path, without colours, and `env` over it."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1", **(env or {})}


def run(file: Path, *args: str, env: Mapping[str, str] | None = None, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end; `file` is the pipeline file or its folder."""
    file = file / "pipeline.yaml" if file.is_dir() else file
    return subprocess.run(
        command(file, *args),
        cwd=file.parent,
        env=environment(env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def manifests(storage: Path, name: str = "tiny") -> dict[str, dict[str, Any]]:
    """The manifest (as written) of every stage that the pipeline's state holds."""
    state = json.loads((storage / "pipelines" / name / "state.json").read_text())
    return {stage: json.loads((storage / entry["manifest"]).read_text()) for stage, entry in state["instances"].items()}


def exact_digests(storage: Path, name: str = "tiny") -> dict[str, dict[str, str]]:
    """The content digest of each slot of each data stage, and under `manifest` that of all the manifest says (ledgers and counts too)."""
    state = json.loads((storage / "pipelines" / name / "state.json").read_text())
    written = manifests(storage, name)
    return {
        stage: {**entry["digests"], "manifest": written[stage]["content_sha256"]}
        for stage, entry in state["instances"].items()
        if stage in DATA_STAGES
    }


def losses(storage: Path, stage: str = "pretrain") -> list[tuple[int, float]]:
    """Step and loss of each recorded step of the one training artifact of `stage`, in order."""
    (spool,) = storage.glob(f"work/{stage}/*/spool")
    curve = Curve(Storage.at(str(storage)), str(spool.relative_to(storage)))
    return [(int(record["step"]), float(record["loss"])) for record in curve.merged()]


def temporary(storage: Path) -> list[str]:
    """Paths of all temporary files that are left below the storage."""
    return sorted(str(found.relative_to(storage)) for found in storage.rglob("*") if found.name.startswith(("tmp.", "unfinished-")))


def flip(path: Path) -> None:
    """Change one bit in the middle of a file; its size and times stay."""
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
