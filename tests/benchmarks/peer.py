"""datatrove 0.10.1 in a virtual environment of its own, made once below the work folder, and what its parts leave behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.benchmarks.measured import Cost, run

VERSION = "0.10.1"
PACKAGES = (f"datatrove=={VERSION}", "orjson", "zstandard", "xxhash<4", "regex", "tokenizers", "spacy[ja]>=3.8,<4", "numpy<3")
"""datatrove and what its readers, hashes and word splitters ask for when they are used."""
SCRIPT = Path(__file__).with_name("peer_datatrove.py")


class Peer:
    """The peer, ready to run."""

    def __init__(self, folder: Path) -> None:
        self._python = folder / "bin" / "python"
        done = folder / "complete.json"
        if not done.exists() or json.loads(done.read_text()) != list(PACKAGES):
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
            subprocess.run([str(self._python), "-m", "pip", "install", "--quiet", *PACKAGES], check=True, timeout=1800)
            done.write_text(json.dumps(list(PACKAGES)))

    def run(self, part: str, splitting: str, source: Path, target: Path, workers: int) -> Cost:
        """Run a part ("gopher" or "minhash") with words split "whitespace" or its "own" way (spaCy's English, its default)."""
        command = [str(self._python), str(SCRIPT), part, str(source), str(target), "--splitting", splitting, "--workers", str(workers)]
        env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        return run(command, env=env, folder=target.parent, log=target.parent / f"{target.name}.log", worker_title="forkserver")


def kept(target: Path) -> set[str]:
    """Ids of the records that the peer's writer kept."""
    import zstandard

    found: set[str] = set()
    for path in sorted((target / "kept").glob("*.jsonl.zst")):
        with path.open("rb") as raw, zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True) as stream:
            found.update(json.loads(line)["id"] for line in stream.read().splitlines())
    return found
