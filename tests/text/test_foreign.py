"""Lines in another language than their document."""

from __future__ import annotations

import pytest

from pipeline.text.foreign import foreign_shares
from pipeline.text.identify import identify_all, supported

ENGLISH = "All human beings are born free and equal in dignity and rights, and should act towards one another."
GERMAN = "Alle Menschen sind frei und gleich an Würde und Rechten geboren und sollen einander begegnen. Punkt."
CROATIAN = "Sva ljudska bića rađaju se slobodna i jednaka u dostojanstvu i pravima, obdarena razumom i savješću."


@pytest.mark.parametrize(
    ("text", "lang", "share"),
    [
        (ENGLISH, "en", 0),
        (GERMAN, "en", 10_000),
        (f"{ENGLISH}\n{ENGLISH}", "en", 0),
        (f"{ENGLISH}\n{GERMAN}", "en", -(-len(GERMAN) * 10_000 // len(ENGLISH + GERMAN))),
        (f"{GERMAN}\nkurz\n{GERMAN}\nMenü", "en", 10_000),
        (f"{CROATIAN}\n{CROATIAN}", "bs", 0),
        ("too short\nto be judged", "en", -1),
        ("", "en", -1),
        (f"{ENGLISH}\n{ENGLISH}", "zgh", -1),
        (f"{ENGLISH}\n{ENGLISH}", "und", -1),
    ],
)
def test_the_share_counts_characters_of_long_lines_in_another_language(text: str, lang: str, share: int) -> None:
    assert foreign_shares([text], [lang], identify_all([text]), identify_all, supported()) == [share]


def test_each_document_of_a_batch_gets_its_own_share() -> None:
    texts = [f"{GERMAN}\n{ENGLISH}", "", ENGLISH, f"{GERMAN}\n{GERMAN}", GERMAN] * 2
    langs = ["de", "en", "en", "en", "de"] * 2
    together = foreign_shares(texts, langs, identify_all(texts), identify_all, supported())
    alone = [foreign_shares([t], [lang], identify_all([t]), identify_all, supported())[0] for t, lang in zip(texts, langs, strict=True)]
    assert together == alone and together[3] == 10_000 and 0 < together[0] < 10_000
    assert foreign_shares([], [], ([], []), identify_all, supported()) == []
