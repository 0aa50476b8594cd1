"""The figures are those of the manifests, sums are checked, and the page shows them with nothing to load and nothing unescaped."""

from __future__ import annotations

import base64
import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pipeline.errors import LedgerError
from stages import report
from stages.report.figures import assemble, flatten
from stages.report.rows import Figures
from stages.report.work import read_given
from tests.stages.report.pieces import HOSTILE, SVG, Maker, surroundings


@pytest.fixture
def whole(tmp_path: Path) -> Maker:
    maker = Maker(tmp_path / "root")
    maker.corpus()
    maker.training()
    maker.task()
    return maker


@pytest.fixture
def bare(tmp_path: Path) -> Maker:
    maker = Maker(tmp_path / "root")
    maker.corpus()
    return maker


def figures_of(maker: Maker) -> Figures:
    return assemble(read_given(maker.inputs))


def page_of(maker: Maker, title: str = "") -> str:
    output, context = surroundings(maker)
    report.run(report.Config(title=title), maker.inputs, output, context)
    return maker.storage.read(output.files["report"]["report.html"].path).decode()


class Page(HTMLParser):
    """Collects tags, what they load, ids, and all text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        given = dict(attrs)
        self.ids += [value for name, value in attrs if name == "id" and value]
        self.links += [value for name, value in attrs if tag == "a" and name == "href" and value]
        self.loads += [
            value for name, value in attrs if name in {"src", "srcset", "data", "poster"} or (name == "href" and tag != "a") if value
        ]
        assert not any(name.startswith("on") for name in given), given

    def handle_data(self, data: str) -> None:
        self.text += data


# Figures


def test_each_language_is_followed_from_what_was_read_to_what_is_trained_on(whole: Maker) -> None:
    table = figures_of(whole).corpus
    assert table is not None
    am, en, fr = table.rows
    assert (am.lang, am.name, am.taken, am.kept, am.quarantined) == ("am", "Amharic", 10, 6, {})
    assert am.dropped == {"too_short": 3, "empty": 1}
    assert list(am.dropped) == ["too_short", "empty"]
    assert (am.trained, am.heldout, am.tokens) == (5, 1, 60)
    assert (am.bytes_in, am.characters_in, am.words_in, am.characters_kept, am.words_kept) == (400, 300, 60, 174, 30)
    assert (en.taken, en.kept, en.quarantined, en.dropped) == (12, 10, {"bad_utf8": 2}, {})
    assert (fr.kept, fr.dropped, fr.near_duplicate_share) == (6, {"near_duplicate": 2}, 2500)
    assert (table.total.taken, table.total.kept, sum(table.total.dropped.values()), table.total.quarantined) == (30, 22, 6, {"bad_utf8": 2})
    assert (table.total.trained, table.total.heldout, table.total.tokens) == (19, 3, 400)
    assert [(row.lang, row.taken, row.kept, row.words_in, row.tokens) for row in table.pairs] == [("fr-en", 4, 3, None, None)]


def test_reasons_are_summed_over_the_stages_that_drop_documents_most_frequent_first(whole: Maker) -> None:
    found = figures_of(whole).reasons
    assert list(found["dropped"].items()) == [("too_short", 3), ("near_duplicate", 2), ("empty", 1)]
    assert found["quarantined"] == {"bad_utf8": 2}


def test_a_ledger_that_does_not_add_up_is_an_error(bare: Maker) -> None:
    plain = bare.inputs["decisions"].manifest.ledgers["documents"]
    plain["languages"]["fr"]["kept"] -= 1
    with pytest.raises(LedgerError, match="dedup: documents: fr: 8 documents in, but 1 of them unaccounted for"):
        figures_of(bare)


def test_every_ledger_of_every_stage_has_a_line_whose_sum_holds(whole: Maker) -> None:
    books = figures_of(whole).books
    assert [(book.instance, book.name) for book in books] == [(name, "documents") for name in ("ingest", "clean", "heldout", "dedup")]
    for book in books:
        assert book.taken == book.kept + sum(book.dropped.values()) + sum(book.quarantined.values()) > 0


def test_held_out_loss_stands_beside_both_unigrams_and_throughput_comes_from_the_curve(whole: Maker) -> None:
    found = figures_of(whole).pretraining
    assert found is not None
    assert (found.better_than_corpus, found.better_than_language) == (3, 2)
    assert (found.trained_tokens, found.parameters, found.step_seconds, found.tokens_per_second) == (600, 1_234_567, 3.0, 200.0)
    first = found.rows[0]
    assert (first.lang, first.loss, first.corpus_unigram, first.language_unigram, first.masked_tokens) == ("am", 8.0, 9.0, 7.5, 3)
    assert [(row.trained_tokens, row.planned_tokens) for row in found.rows] == [(100, 80), (300, 300), (200, None)]
    assert "of those planned" in page_of(whole) and "125" in page_of(whole)


def test_every_objective_stands_beside_its_baseline(whole: Maker) -> None:
    trained = figures_of(whole).pretraining
    assert trained is not None
    first, second = trained.objectives
    assert (first.name, first.languages, first.baseline) == ("mlm", 3, pytest.approx(20.5 / 3))
    assert (second.name, second.loss, second.baseline, second.languages, second.better_in) == ("tlm", 6.0, 6.25, 2, 1)
    page = page_of(whole)
    assert "hidden tokens of translation pairs" in page and "1 of 2" in page


def test_masked_words_of_a_run_that_never_hid_any_have_no_row_among_its_objectives(whole: Maker) -> None:
    made = figures_of(whole).pretraining
    assert made is not None and "mlm" in [row.name for row in made.objectives]
    whole.objectives = ["tlm"]
    whole.training()
    made = figures_of(whole).pretraining
    assert made is not None and [row.name for row in made.objectives] == ["tlm"]


def test_packing_fill_is_summed_by_split(whole: Maker) -> None:
    train, held = figures_of(whole).packing
    assert (train.split, train.documents, train.rows, train.tokens, train.filled, train.places) == ("train", 19, 12, 350, 381, 384)
    assert (held.split, held.filled, held.places) == ("heldout", 56, 96)


def test_group_rows_come_before_languages_and_the_headline_is_zero_shot(whole: Maker) -> None:
    (found,) = figures_of(whole).scores
    assert [row.key for row in found.rows] == ["zero_shot", "trained_on", "all", "am", "en", "fr"]
    assert found.systems == ["model", "untrained", "majority"]
    assert found.head.accuracy == {"model": (6_000, 5_700, 6_300), "untrained": (4_000, 3_700, 4_300), "majority": (2_500, 2_200, 2_800)}
    assert [row.key for row in found.rows if row.fine_tuned] == ["en"]


def test_libraries_show_every_version_that_was_used(whole: Maker) -> None:
    assert figures_of(whole).libraries == {"Python": ["3.11.7"], "pyarrow": ["25.0.1", "25.0.2"]}


def test_settings_are_flattened_without_losing_any() -> None:
    nested = {"a": {"b": 1, "c": {}}, "d": [{"kind": "x"}, {"kind": "y"}], "e": [1, 2], "f": None, "g": "ü"}
    assert flatten(nested) == [
        ("a.b", "1"),
        ("a.c", "{}"),
        ("d.0.kind", '"x"'),
        ("d.1.kind", '"y"'),
        ("e", "[1, 2]"),
        ("f", "null"),
        ("g", '"ü"'),
    ]


# The page


def test_the_page_and_the_json_hold_the_figures(whole: Maker) -> None:
    output, context = surroundings(whole)
    summary = report.run(report.Config(), whole.inputs, output, context)
    page = Page(whole.storage.read(output.files["report"]["report.html"].path).decode())
    for wanted in (
        "30 in = 22 kept + 6 dropped + 2 quarantined", "Amharic", "near duplicate 2", "1,234,567 parameters", "200 tokens a second", "30.0% of what the devices compute at most", "6.500",
        "0.333 nats better, better in 2 of 3 languages", "60.0 % ", "57.0, 63.0", "zero-shot: never fine-tuned on (2 languages)",
        "The model is better than each baseline.", "60 lines of 3 languages", "Text seen unlabelled", "python -m pipeline run pipeline.yaml",
        "mlflow ui --backend-store-uri sqlite:///", "pyarrow 25.0.1 and 25.0.2", "3.00 GiB", "train longer",
    ):  # fmt: skip
        assert " ".join(wanted.split()) in " ".join(page.text.split()), wanted
    plain = json.loads(whole.storage.read(output.files["report"]["report.json"].path))
    assert plain["corpus"]["total"]["kept"] == 22
    assert plain["scores"][0]["rows"][0]["accuracy"]["model"] == [6_000, 5_700, 6_300]
    assert summary.counts["inputs"]["documents"] == whole.inputs["documents"].digest
    assert sorted(output.evidence_files) == ["corpus.svg", "heldout.svg"]


def test_vocabularies_stand_side_by_side_and_pieces_are_harmless(whole: Maker) -> None:
    page = page_of(whole)
    section = page[page.index('id="vocabulary"') : page.index('id="packing"')]
    assert "<th>xlm-r</th>" in section and "250,000 ids" in section
    assert "<td>2.50</td><td>3.33</td>" in section  # characters per piece, of all languages
    assert "<td>2.00</td><td>2.00</td>" in section  # Amharic's parity
    assert "evil" in section and "\u202e" not in section


def test_text_from_outside_is_escaped_wherever_it_stands(whole: Maker) -> None:
    html = page_of(whole, title=f"my {HOSTILE}")
    page = Page(html)
    assert "script" not in page.tags
    assert "<script" not in html
    # in the title twice, a warning, a held-out group, a setting, the source and the text of a dropped document, and one side of a dropped pair
    assert page.text.count(HOSTILE) == 8


def test_controls_and_overrides_in_samples_are_shown_as_escapes(whole: Maker) -> None:
    text = Page(page_of(whole)).text
    assert f"{HOSTILE}\\x00" in text and f"\\u202e{HOSTILE}" in text
    assert not {"\x00", "\u202e"} & set(text)


def test_the_page_loads_nothing_and_its_ids_are_unique(whole: Maker) -> None:
    page = Page(page_of(whole))
    assert len(page.loads) == 9  # lengths, confidence, fertility, loss, throughput, fine-tuning, accuracy and its own two
    assert all(load.startswith("data:image/svg+xml;base64,") for load in page.loads)
    assert base64.b64encode(SVG).decode() in page.loads[1]  # the first is its own
    assert set(page.links) <= {f"#{name}" for name in page.ids}
    assert len(page.ids) == len(set(page.ids)) > 5
    assert not {"script", "link", "iframe", "object"} & set(page.tags)


def test_the_same_manifests_give_the_same_bytes(whole: Maker) -> None:
    assert page_of(whole) == page_of(whole)


def test_sections_of_absent_stages_are_left_out(bare: Maker) -> None:
    page = Page(page_of(bare))
    assert {"corpus", "cost", "books", "settings", "again"} == set(page.ids)
    assert "30 in = 22 kept + 6 dropped + 2 quarantined" in " ".join(page.text.split())
    for absent in ("trained are", "fertility", "unigram", "zero-shot", "None", "–"):
        assert absent not in page.text.replace("“–” is a stage too short", "").replace("small – report", ""), absent


def test_without_a_card_the_page_has_no_table_of_the_corpus_and_keeps_the_ledgers(bare: Maker) -> None:
    del bare.inputs["card"]
    assert figures_of(bare).corpus is None
    page = Page(page_of(bare))
    assert "corpus" not in page.ids and "near duplicate 2" in page.text


def test_without_an_evaluation_pretraining_is_still_shown(tmp_path: Path) -> None:
    maker = Maker(tmp_path / "root")
    maker.corpus()
    maker.training()
    page = Page(page_of(maker))
    assert "pretraining" in page.ids and "export" in page.ids
    assert "scores" not in page.ids and "finetuning" not in page.ids


def test_a_set_whose_text_was_not_seen_says_nothing_of_it(tmp_path: Path) -> None:
    maker = Maker(tmp_path / "root")
    maker.corpus()
    maker.task(seen=False)
    assert "unlabelled" not in page_of(maker)


def test_a_lost_plot_costs_the_plot_and_a_warning_not_the_report(whole: Maker, caplog: pytest.LogCaptureFixture) -> None:
    entry = whole.inputs["scores.evaluate"].manifest.record["evidence"]["accuracy.svg"]
    whole.storage.remove(entry["path"])
    page = Page(page_of(whole))
    assert len(page.loads) == 8
    assert "without accuracy.svg of evaluate" in caplog.text
