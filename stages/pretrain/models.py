"""The model of a run: of a named size with weights drawn from the seed, or one that exists already, with the rows of this run's vocabulary."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import ConfigError, MissingSourceError
from pipeline.manifest import Shard
from pipeline.storage import Storage

if TYPE_CHECKING:
    from stages.pretrain import Config

CONFIG, TOKENIZER = "config.json", "tokenizer.json"


def check_start(names: list[str], path: str, *, weights: bool = True) -> None:
    """What is found at `pretrain.start.path`; weights: must be among it.

    Raises:
        MissingSourceError: it is no Hugging Face directory with weights in safetensors.
    """
    wanted_there = {CONFIG: CONFIG in names, "*.safetensors": not weights or any(name.endswith(".safetensors") for name in names)}
    for wanted, is_there in wanted_there.items():
        if not is_there:
            raise MissingSourceError(f"pretrain.start.path: {path} has no {wanted}; give the directory of a Hugging Face model")


def model_of(
    config: Config, argument: Mapping[str, Any], storage: Storage, *, vocab_size: int, length: int, languages: Sequence[str] = ()
) -> Any:
    """The masked language model that a rank trains, float32, the same on every rank.

    argument: of the gang: `seed`, `start` (files by name) and `vocabulary`, `rows`. languages: of the text, for language embeddings.

    Raises:
        ConfigError: the start does not fit the vocabulary or the rows, or has language embeddings where none are asked for, or none where they are.
        IntegrityError: weights are missing.
    """
    from pipeline.model.build import build_masked_lm
    from pipeline.model.language_embeddings import ids_of
    from pipeline.model.sizes import named_size
    from pipeline.model.start import started_model

    start = {name: Shard(**plain) for name, plain in argument["start"].items()}
    if not start:
        return build_masked_lm(
            named_size(config.model), vocab_size, seed=argument["seed"], dropout=config.dropout, max_length=length, architecture=config.architecture,
            languages=languages if config.language_embeddings else (),
        )  # fmt: skip
    rows = None
    if argument["rows"] is not None:
        told = json.loads(storage.local(argument["rows"]["path"], argument["rows"]["sha256"]).read_text())
        _require_its_vocabulary(storage, start, told)
        rows = told["rows"]
    else:
        pieces = storage.local(argument["vocabulary"]["path"], argument["vocabulary"]["sha256"]).read_bytes()
        _require_same_pieces(storage, start, pieces)
    with tempfile.TemporaryDirectory() as scratch:
        for name, shard in start.items():
            (Path(scratch) / name).symlink_to(Path(storage.local(shard.path, shard.sha256)).resolve())
        model = started_model(Path(scratch), vocab_size, rows=rows, dropout=config.dropout, max_length=length)
    if config.language_embeddings != (ids_of(model.config) is not None):
        found = "no language embeddings" if config.language_embeddings else "language embeddings"
        raise ConfigError(f"pretrain.start: the model has {found}; set language_embeddings: {str(not config.language_embeddings).lower()}")
    return model


def _require_its_vocabulary(storage: Storage, start: Mapping[str, Shard], told: Mapping[str, Any]) -> None:
    """The ids that `rows.json` names are this model's.

    Raises:
        ConfigError: they are those of another vocabulary.
    """
    from pipeline.text.imported import imported

    if TOKENIZER in start:
        theirs = imported(storage.local(start[TOKENIZER].path, start[TOKENIZER].sha256), TOKENIZER)
        fits, found = theirs.identity == told["identity"], f"its {TOKENIZER} gives other ids than"
    else:
        plain = json.loads(storage.local(start[CONFIG].path, start[CONFIG].sha256).read_text())
        ids = int(plain.get("vocab_size", plain.get("n_words", 0)))
        fits, found = ids >= told["size_before"], f"its {CONFIG} has {ids} ids, fewer than the {told['size_before']} of"
    if not fits:
        raise ConfigError(
            f"pretrain.start: {found} the file at vocabulary.start.path; name the {TOKENIZER} in the directory of pretrain.start.path there"
        )


def _require_same_pieces(storage: Storage, start: Mapping[str, Shard], model: bytes) -> None:
    """Without `rows.json` the ids of both must mean the same.

    Raises:
        ConfigError: they do not, or nobody can say.
    """
    from pipeline.text.imported import imported
    from pipeline.text.tokenizer import Tokenizer

    remedy = "set vocabulary.start.path to the tokenizer.json of the model, so that its rows follow the vocabulary"
    if TOKENIZER not in start:
        raise ConfigError(f"pretrain.start: there is no {TOKENIZER} beside the weights, so what its ids mean is not known; {remedy}")
    theirs = imported(storage.local(start[TOKENIZER].path, start[TOKENIZER].sha256), TOKENIZER)
    ours = Tokenizer(model).pieces()
    if list(Tokenizer(theirs.model).pieces()) != list(ours) or theirs.origins != list(range(theirs.size_before)):
        raise ConfigError(f"pretrain.start: the model was trained with another vocabulary; {remedy}")
