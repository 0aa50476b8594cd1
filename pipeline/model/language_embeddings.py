"""Language embeddings: a learned vector of its language is added to every token (Lample and Conneau 2019, section 3.1), for architectures that have them: XLM.

    languages -> configuration with `n_langs`, `lang2id` -> ids_of(configuration) -> sides_by_name -> `langs_BT` of the batches -> the library's `langs`

They are named in the configuration, so whoever opens an exported model knows which row is which language.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import ConfigError

if TYPE_CHECKING:
    import torch

Langs = Mapping[str, tuple[int, int]]
"""Language, or pair of languages, -> row of the embeddings of each of its sides; of a language both are the same."""


def with_languages(config: Any, languages: Iterable[str]) -> Any:
    """The configuration with an embedding of each language, in the order of their codes.

    Raises:
        ConfigError: the architecture has none, or there is but one language, for which the library makes none.
    """
    names = sorted(set(languages))
    if config.model_type != "xlm":
        raise ConfigError(
            f"pretrain.language_embeddings: a model of type {config.model_type!r} has none; set architecture: xlm or leave it out"
        )
    if len(names) < 2:
        raise ConfigError(f"pretrain.language_embeddings: {len(names)} language; they tell at least two apart: leave it out")
    config.use_lang_emb, config.n_langs = True, len(names)
    config.lang2id = {name: number for number, name in enumerate(names)}
    config.id2lang = dict(enumerate(names))
    return config


def ids_of(config: Any) -> dict[str, int] | None:
    """Language -> row of the embeddings of a model of the library; none where it has no embeddings of named languages."""
    if config.model_type != "xlm" or not config.use_lang_emb or config.n_langs < 2:
        return None
    named: Mapping[str, int] = getattr(config, "lang2id", None) or {}
    return dict(named) or None


def rows_of(ids: Mapping[str, int], languages: Iterable[str], where: str) -> list[int]:
    """The row of each language.

    Raises:
        ConfigError: a language has none; `where` begins the message.
    """
    languages = list(languages)
    missing = sorted({lang for lang in languages if lang not in ids})
    if missing:
        raise ConfigError(f"{where}: the model has no language embedding of {', '.join(missing[:5])}; it has {', '.join(sorted(ids)[:10])}")
    return [ids[lang] for lang in languages]


def sides_by_name(ids: Mapping[str, int], languages: Iterable[str], pairs: Iterable[str]) -> dict[str, tuple[int, int]]:
    """See `Langs`. pairs: names such as "en-zh-Hant", of languages that have an embedding.

    Raises:
        ConfigError: a language has no embedding.
    """
    names = list(languages)
    found = {lang: (row, row) for lang, row in zip(names, rows_of(ids, names, "pretrain.language_embeddings"), strict=True)}
    for name in pairs:
        parts = name.split("-")
        cuts = [("-".join(parts[:at]), "-".join(parts[at:])) for at in range(1, len(parts))]
        known = [cut for cut in cuts if cut[0] in ids and cut[1] in ids]
        first, second = rows_of(ids, known[0] if known else cuts[0], f"pretrain.language_embeddings: pairs of {name}")
        found[name] = (first, second)
    return found


def table_of(langs: Langs | None, names: Iterable[str]) -> npt.NDArray[np.int64] | None:
    """[L, 2] for languages or pairs as a feed numbers them."""
    return None if langs is None else np.array([langs[name] for name in names], np.int64).reshape(-1, 2)


def langs_given(batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What a forward pass is given of a batch: `langs_BT` where the batch has it."""
    return {"langs_BT": batch["langs_BT"]} if "langs_BT" in batch else {}
