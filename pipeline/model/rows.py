"""A model that follows its vocabulary: embedding and output rows for other ids.

    rows (old ids of each new id, from `text.vocabulary_change`) + weights [V, D] -> weights [W, D]: a kept row copied, a new one the mean of the old rows that its
    text splits into, one of which nothing is known the mean of all
    a Hugging Face directory -> changed_model -> a directory that AutoModel opens; with `text.tokenizer_export` beside it AutoTokenizer too

Kept rows are copied bit for bit, and so are the logits over them, as nothing else of the model changes.

Legend: V old ids, W new ids, D width.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from pipeline.errors import StageError


def mapped_rows(weight_VD: torch.Tensor, rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """The rows of the new ids, in the type of the old; a vector [V], such as an output bias, is mapped likewise.

    Raises:
        StageError: an old id is none of the weight's rows.
    """
    top = max((max(row) for row in rows if row), default=0)
    if top >= len(weight_VD):
        raise StageError(f"vocabulary: row {top} of an embedding that has {len(weight_VD)}; the vocabulary is not that of this model")
    first_W = torch.tensor([row[0] if row else 0 for row in rows])
    mapped_WD = weight_VD.detach()[first_W].clone()
    for index, row in enumerate(rows):
        if len(row) != 1:
            chosen = weight_VD.detach()[torch.tensor(row)] if row else weight_VD.detach()
            mapped_WD[index] = chosen.float().mean(dim=0).to(mapped_WD.dtype)
    return mapped_WD


def changed_model(source: Path, target: Path, rows: Sequence[Sequence[int]], special_ids: Mapping[str, int]) -> int:
    """Write the masked language model in `source` with the rows of another vocabulary to `target`; returns the most tokens that it reads at once.

    special_ids: `bos_token_id`, `eos_token_id` and `pad_token_id` of the new vocabulary. Its tokenizer's files are not written here.

    Raises:
        StageError: a row names an old id that the model's embedding does not have.
    """
    from transformers import AutoModelForMaskedLM

    old = AutoModelForMaskedLM.from_pretrained(source, local_files_only=True, use_safetensors=True)
    new = with_rows(old, rows, special_ids)
    new.save_pretrained(target)
    return int(new.config.max_position_embeddings) - int(new.config.pad_token_id) - 1


def with_rows(old: Any, rows: Sequence[Sequence[int]], special_ids: Mapping[str, int]) -> Any:
    """A masked language model of the library with the rows of another vocabulary: the same class and weights otherwise.

    special_ids: as `changed_model`; those that the configuration does not know are left aside.

    Raises:
        StageError: a row names an old id that the model's embedding does not have.
    """
    config = copy.deepcopy(old.config)
    config.vocab_size = len(rows)
    for name, index in special_ids.items():
        if hasattr(config, name):
            setattr(config, name, index)
    new = type(old)._from_config(config, attn_implementation=old.config._attn_implementation, dtype=old.dtype)
    shapes = {name: weight.shape for name, weight in new.state_dict().items()}
    before: dict[str, Any] = old.state_dict()
    height = len(old.get_input_embeddings().weight)
    # Where old and new have as many ids, shapes do not tell: the rows of the embedding, its tied output and the output's bias are what has the old height.
    after = {
        name: mapped_rows(weight, rows) if weight.ndim and len(weight) == height and shapes[name][0] == len(rows) else weight
        for name, weight in before.items()
    }
    new.load_state_dict(after)
    new.tie_weights()
    return new
