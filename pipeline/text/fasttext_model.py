"""Language identification by a fastText model from a file: lid.176, GlotLID, NLLB's and the like. The one door to `fasttext` (extra `fasttext`).

    text, line feeds as spaces -> fastText's first label -> `__label__eng_Latn`, `__label__eng`, `__label__en` -> canonical code, probability in 1/10,000

Labels with a script are those of FLORES and GlotLID, those of three letters ISO 639-3, the rest the names of Wikipedias, as lid.176 has them: there `als` is
Alemannic, while in ISO 639-3 it is Albanian. A label that is no language of the table is `und`. Probabilities are floats of the processor: rounded to 1/10,000 they could
differ by one in the last place between machines of different kinds, which the built-in combination (`identify`) excludes.

A model file is read by native code: take it only from where you would take a program.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError
from pipeline.text.identify import UNDETERMINED, Found
from pipeline.text.languages import lookup
from pipeline.text.twins import chinese

_PREFIX = "__label__"
_WIKIPEDIA = {"als": "gsw"}
_DISTRIBUTIONS = ("fasttext-predict", "fasttext-wheel", "fasttext-numpy2", "fasttext")


def installed() -> str:
    """Distribution and version of the installed fastText, for keys.

    Raises:
        ConfigError: there is none.
    """
    for name in _DISTRIBUTIONS:
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            continue
    raise ConfigError("identify_model: fastText is not installed on this machine. Install it: pip install 'xlm-pipeline[fasttext]'")


def is_wikipedia(labels: Sequence[str]) -> bool:
    """Whether labels are the names of Wikipedias: some have two letters."""
    return any(len(label.removeprefix(_PREFIX)) == 2 for label in labels)


def canonical(label: str, wikipedia: bool) -> str:
    """The code that a label means; `und` where the table has none."""
    name = label.removeprefix(_PREFIX)
    try:
        return lookup(_WIKIPEDIA.get(name, name) if wikipedia else name).code
    except ConfigError:
        return UNDETERMINED


class FastText:
    """A model at work."""

    def __init__(self, path: Path) -> None:
        """Read the model.

        Raises:
            ConfigError: fastText is not installed, or the file is not one of its models that classify.
        """
        installed()
        import fasttext

        try:
            self._model: Any = fasttext.load_model(str(path))
            labels, _ = self._model.predict("a", k=-1)
        except (ValueError, RuntimeError, MemoryError) as error:
            raise ConfigError(f"identify_model: {path} is no fastText model that names languages: {error}") from None
        wikipedia = is_wikipedia(labels)
        self._codes = {label: canonical(label, wikipedia) for label in labels}
        self._chinese = {label for label in labels if label.removeprefix(_PREFIX) in ("zh", "zho", "cmn")}

    def identify_all(self, texts: Sequence[str]) -> Found:
        """The language and score of each text; `und` with score 0 where it has no letter or its label is no language of the table."""
        langs, scores = [UNDETERMINED] * len(texts), [0] * len(texts)
        for at, text in enumerate(texts):
            if not any(map(str.isalpha, text)):
                continue
            labels, probabilities = self._model.predict(text.replace("\n", " ").encode("utf-8", "replace").decode())
            if labels and self._codes[labels[0]] != UNDETERMINED:
                label = labels[0]
                langs[at] = (chinese([text])[0] if label in self._chinese else None) or self._codes[label]
                scores[at] = min(10_000, int(float(probabilities[0]) * 10_000 + 0.5))
        return langs, scores


@cache
def model_at(path: Path) -> FastText:
    """The model in a file, read once a process."""
    return FastText(path)
