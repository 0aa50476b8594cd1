"""The rules on script and on lines of another language, from columns alone."""

import numpy as np

from stages.dedup.rules import foreign_lines, script


def test_a_document_with_few_letters_of_its_script_goes_but_not_where_that_cannot_be_said() -> None:
    rows = [
        ("th", 4_999, 200, True),
        ("th", 5_000, 200, False),
        ("th", 100, 49, False),
        ("xx", -1, 200, False),
        ("sr", 0, 200, False),
        ("sr-Latn", 0, 200, True),
        ("zh-Hans", 0, 200, True),
    ]
    columns = {
        "lang": np.array([row[0] for row in rows], object),
        "script_share": np.array([row[1] for row in rows], np.int64),
        "characters": np.array([row[2] for row in rows], np.int64),
    }
    ((reason, mask),) = script.reasons(columns, {"min_script_share": 0.5, "min_characters": 50})
    assert reason == "wrong_script" and mask.tolist() == [row[3] for row in rows]


def test_a_document_of_which_too_much_is_in_another_language_goes_and_one_that_was_not_judged_stays() -> None:
    columns = {"lang": np.array(["en", "en", "en", "en", "mt"], object), "foreign_line_share": np.array([-1, 0, 5_000, 5_001, 5_001])}
    settings = {"max_foreign_line_share": 0.5, "languages": {"mt": {"max_foreign_line_share": 0.8}}}
    ((reason, mask),) = foreign_lines.reasons(columns, settings)
    assert reason == "foreign_lines" and mask.tolist() == [False, False, False, True, False]
