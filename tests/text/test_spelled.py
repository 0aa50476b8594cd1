"""Texts as JSON spells them."""

import json
from itertools import pairwise

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.tables import utf8
from pipeline.text.spelled import json_spelling


@settings(deadline=None, max_examples=200)
@given(st.lists(st.text(st.characters(exclude_categories=("Cs",)) | st.sampled_from('"\\\n\t\x00\x1f\x7f/é𝄞'), max_size=20), max_size=6))
def test_a_text_is_spelled_as_the_json_module_spells_it(texts: list[str]) -> None:
    spelled, edges = json_spelling(*utf8(pa.array(texts, pa.large_string())))
    found = [bytes(spelled[a:b]).decode() for a, b in pairwise(edges.tolist())]
    assert found == [json.dumps(text, ensure_ascii=False)[1:-1] for text in texts]
