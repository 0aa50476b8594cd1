"""The work of report: manifests and the small files beside them -> figures -> `report.json` and `report.html`.

The page loads nothing: plots are inlined as data URIs, so that ids inside two SVG files cannot clash, and a policy in its head forbids the rest. Every text that
came from outside (labels, file names, warnings, settings) is escaped by the template engine.
"""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.artifacts.card import CARD_FILE
from pipeline.errors import IntegrityError
from pipeline.highlights import mlflow_command
from pipeline.inspection import clean_text
from pipeline.stage import Context, Input, Output, Summary
from pipeline.storage import canonical
from stages.report import Config
from stages.report.figures import SYSTEM_NAMES, assemble
from stages.report.rows import Figures, Given, Part

log = logging.getLogger(__name__)

SHOWN_REASONS = 6
"""Reasons that have a colour of their own in the plot of the corpus: more can neither be told apart nor drawn in little space."""
TEMPLATE = Path(__file__).with_name("page.html")

CAPTIONS = {
    (
        "card",
        "lengths.svg",
    ): "Documents by their length in characters after cleaning: one column a language, darker where more of its documents are so long.",
    (
        "card",
        "confidence.svg",
    ): "How sure identification is of each document. Above the line: identified as the language it is labelled with, the surest on top; below it: not at all, then as another language, the surest at the bottom.",
    (
        "vocabulary",
        "fertility.svg",
    ): "Pieces per character: how finely the vocabulary cuts each language. Lower is coarser, and cheaper to train on.",
    ("vocabulary", "compared.svg"): "The same words by this vocabulary and by those it is compared with.",
    ("vocabulary", "parity.svg"): "Pieces that a language takes for one of English, on aligned documents.",
    ("vocabulary", "byte_fallback.svg"): "Pieces that are single bytes, or unknown.",
    (
        "pretrain",
        "loss.svg",
    ): "Training and held-out loss over the steps. The dashed lines are the held-out losses of the two unigram baselines.",
    ("pretrain", "throughput.svg"): "Tokens a second, padding not counted.",
    ("pretrain", "heldout.svg"): "Held-out loss of the model by language, highest first.",
    ("finetune", "loss.svg"): "Loss while fine-tuning, in nats per example.",
    ("evaluate", "accuracy.svg"): "Accuracy by language with 95% intervals; the dashed lines are the baselines' means.",
    ("report", "corpus.svg"): "Documents by language: trained on, held out, and left out for each reason.",
    (
        "report",
        "heldout.svg",
    ): "Languages from the lowest held-out loss to the highest, the model beside both unigrams of the same language.",
}


@dataclass(frozen=True)
class Image:
    """A plot as it stands in the page."""

    source: str
    caption: str


def run(config: Config, inputs: Mapping[str, Input], output: Output, context: Context) -> Summary:
    """Assemble the figures and write the page; see the package."""
    figures = assemble(read_given(inputs))
    images = _evidence(inputs)
    images.setdefault("report", []).extend(_plots(figures, output))
    page = render(
        figures, images, title=config.title or context.settings.name, name=context.settings.name,
        mlflow=mlflow_command(context.settings, context.storage),
    )  # fmt: skip
    with output.file("report", "report.html") as path:
        path.write_text(page, encoding="utf-8")
    with output.file("report", "report.json") as path:
        path.write_bytes(canonical(asdict(figures)))
    return Summary(counts={"inputs": {slot: given.digest for slot, given in sorted(inputs.items())}})


def read_given(inputs: Mapping[str, Input]) -> Given:
    """What the figures are made of: all manifests, and the small JSON files that hold figures.

    Raises:
        IntegrityError: a file is gone or damaged.
    """
    corpus_card = card = training = None
    curve: Sequence[Mapping[str, float]] = ()
    if "card" in inputs:
        corpus_card = json.loads(inputs["card"].path(CARD_FILE).read_bytes())
    if "vocabulary" in inputs:
        card = json.loads(inputs["vocabulary"].path("card.json").read_bytes())
    if "checkpoint" in inputs:
        training = json.loads(inputs["checkpoint"].path("training.json").read_bytes())
        found = _evidence_file(inputs["checkpoint"], "curve.json")
        curve = [] if found is None else json.loads(found)
    scores = {g.instance: json.loads(g.path("scores.json").read_bytes()) for slot, g in inputs.items() if slot.startswith("scores")}
    return Given({slot: Part(given.instance, given.manifest) for slot, given in inputs.items()}, corpus_card, card, training, curve, scores)


def _evidence_file(given: Input, name: str) -> bytes | None:
    """Evidence lies outside the manifest's content and is not checked by a plan: where it is gone or damaged, the page goes without it."""
    entry = given.manifest.record.get("evidence", {}).get(name)
    if entry is None:
        return None
    try:
        return given.storage.local(entry["path"], entry["sha256"]).read_bytes()
    except (OSError, IntegrityError) as error:
        log.warning("the report goes without %s of %s: %s", name, given.instance, error)
        return None


def _evidence(inputs: Mapping[str, Input]) -> dict[str, list[Image]]:
    """SVG evidence of every instance, by stage, in the order of slots and names."""
    images: dict[str, list[Image]] = {}
    seen: set[str] = set()
    for given in inputs.values():
        if given.instance in seen:
            continue
        seen.add(given.instance)
        stage = given.manifest.stage
        names = [name for name in given.manifest.record.get("evidence", {}) if name.endswith(".svg")]
        known = list(CAPTIONS)
        for name in sorted(names, key=lambda name: (known.index((stage, name)) if (stage, name) in CAPTIONS else len(known), name)):
            data = _evidence_file(given, name)
            if data is not None:
                images.setdefault(stage, []).append(image(data, CAPTIONS.get((stage, name), f"{given.instance}: {name}")))
    return images


def image(svg: bytes, caption: str) -> Image:
    """An SVG file as an image that needs no other file."""
    return Image("data:image/svg+xml;base64," + base64.b64encode(svg).decode("ascii"), caption)


def _plots(figures: Figures, output: Output) -> list[Image]:
    from pipeline.plots import bars, curves

    made = []
    if figures.corpus is not None and figures.corpus.rows:
        rows, total = figures.corpus.rows, figures.corpus.total
        stacked: dict[str, dict[str, float]] = {}
        if total.trained is None:
            stacked["kept"] = {row.lang: row.kept for row in rows}
        else:
            stacked["trained on"] = {row.lang: row.trained or 0 for row in rows}
            stacked["held out"] = {row.lang: row.heldout or 0 for row in rows}
        reasons = list(figures.reasons["dropped"])
        for reason in reasons[:SHOWN_REASONS]:
            stacked[reason.replace("_", " ")] = {row.lang: row.dropped.get(reason, 0) for row in rows}
        if reasons[SHOWN_REASONS:]:
            stacked["other reasons"] = {row.lang: sum(row.dropped.get(reason, 0) for reason in reasons[SHOWN_REASONS:]) for row in rows}
        if total.quarantined:
            stacked["quarantined"] = {row.lang: sum(row.quarantined.values()) for row in rows}
        with output.evidence("corpus.svg") as path:
            bars({row.lang: row.taken for row in rows}, path, title="Documents by language", ylabel="documents", stacked=stacked)
            made.append(image(path.read_bytes(), CAPTIONS[("report", "corpus.svg")]))
    trained = figures.pretraining
    if trained is not None and trained.rows:
        ordered = sorted(trained.rows, key=lambda row: row.loss)
        series: dict[str, tuple[list[float], list[float]]] = {}
        for label, values in (
            ("model", [row.loss for row in ordered]),
            ("corpus-wide unigram", [row.corpus_unigram for row in ordered]),
            ("per-language unigram", [row.language_unigram for row in ordered]),
        ):
            points = [(float(rank), value) for rank, value in enumerate(values, 1) if value is not None]
            if points:
                series[label] = ([x for x, _ in points], [y for _, y in points])
        with output.evidence("heldout.svg") as path:
            curves(series, path, title="Held-out loss by language", xlabel="languages, by the model's loss", ylabel="nats per masked token")
            made.append(image(path.read_bytes(), CAPTIONS[("report", "heldout.svg")]))
    return made


# ---------------------------------------------------------------- the page


def render(figures: Figures, images: Mapping[str, Sequence[Image]], *, title: str, name: str, mlflow: str | None) -> str:
    """The page as HTML."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(
        n=lambda value: "–" if value is None else f"{value:,}",
        f3=lambda value: "–" if value is None else f"{value:.3f}",
        signed=lambda value: f"{value:+.3f}".replace("-", "−"),
        myriad=lambda value: f"{value / 10_000:.2f}",
        percent=lambda value: f"{value / 100:.1f}",
        small_percent=lambda value: f"{value / 100:.2f}",
        share=lambda part, whole: f"{100 * part / whole:.1f}" if whole else "–",
        size=_size,
        duration=_duration,
        words=lambda text: str(text).replace("_", " "),
        harmless=lambda text: clean_text(text, len(text)),
    )
    by_caption = {made.caption: made for made in images.get("report", ())}
    shown = {"card", "vocabulary", "pretrain", "finetune", "evaluate", "report"}
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        figures=figures,
        images=images,
        corpus_plot=by_caption.get(CAPTIONS[("report", "corpus.svg")]),
        heldout_plot=by_caption.get(CAPTIONS[("report", "heldout.svg")]),
        other_images=[made for stage, several in sorted(images.items()) if stage not in shown for made in several],
        title=title,
        name=name,
        mlflow=mlflow,
        systems=SYSTEM_NAMES,
        loss_scale=_loss_scale(figures),
        longest=max((stage.seconds for stage in figures.stages), default=0.0) or 1.0,
        largest=max((stage.peak_bytes for stage in figures.stages), default=0) or 1,
        seconds=sum(stage.seconds for stage in figures.stages),
    )


def _loss_scale(figures: Figures) -> tuple[float, float]:
    """Lowest and highest loss in the table by language: the ends of its little scales."""
    values: list[Any] = []
    for row in figures.pretraining.rows if figures.pretraining else ():
        values += [row.loss, row.corpus_unigram, row.language_unigram]
    known = [value for value in values if value is not None]
    low, high = min(known, default=0.0), max(known, default=1.0)
    return (low, high) if high > low else (low, low + 1.0)


def _size(value: int) -> str:
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if value >= scale:
            return f"{value / scale:.2f} {unit}"
    return f"{value} B"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
