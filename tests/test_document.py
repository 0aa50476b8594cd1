"""YAML 1.2 read strictly: values, places, refusals, `extends`, overrides."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import document
from pipeline.document import Document, Place, Problem, fail, read, with_overrides
from pipeline.errors import ConfigError


def write(folder: Path, text: str | bytes, name: str = "pipeline.yaml") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def load(folder: Path, text: str | bytes) -> Any:
    return read(write(folder, text)).data


def complaint(folder: Path, text: str | bytes) -> str:
    path = write(folder, text)
    with pytest.raises(ConfigError) as caught:
        read(path)
    return str(caught.value).replace(str(path), "pipeline.yaml")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("documents")


# Values


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("no", "no"), ("on", "on"), ("y", "y"), ("Yes", "Yes"), ("off", "off"), ("NO", "NO"),
        ("true", True), ("False", False), ("null", None), ("~", None), ("", None),
        ("010", 10), ("0o17", 15), ("0x1F", 31), ("-7", -7), ("+7", 7), ("1_000", "1_000"), ("1:30", "1:30"), ("0b11", "0b11"),
        ("1e-4", 1e-4), ("3.10", 3.1), (".5", 0.5), ("1.", 1.0), ("-1E+3", -1000.0), ("1e", "1e"), (".", "."),
        ("2026-11-22", "2026-11-22"), ("=", "="), ("'5'", "5"), ('"no"', "no"), ('"null"', "null"), ("''", ""),
    ],
)  # fmt: skip
def test_a_plain_value_is_read_by_the_core_schema_of_yaml_1_2(tmp_path: Path, written: str, value: object) -> None:
    found = load(tmp_path, f"key: {written}\n")["key"]
    assert found == value
    assert type(found) is type(value)


def test_a_yaml_1_1_directive_does_not_bring_its_booleans_back(tmp_path: Path) -> None:
    assert load(tmp_path, "%YAML 1.1\n---\na: no\nb: 010\nc: 1:30\n") == {"a": "no", "b": 10, "c": "1:30"}


def test_keys_are_always_text(tmp_path: Path) -> None:
    assert load(tmp_path, "no: 1\non: 2\n10: 3\nnull: 4\n'': 5\n") == {"no": 1, "on": 2, "10": 3, "null": 4, "": 5}


def test_anchors_are_expanded_and_the_copies_are_equal(tmp_path: Path) -> None:
    assert load(tmp_path, "a: &x [1, {b: no}]\nc: *x\nd: *x\n") == {"a": [1, {"b": "no"}], "c": [1, {"b": "no"}], "d": [1, {"b": "no"}]}


@pytest.mark.parametrize("text", ["", "# only a remark\n", "---\n", "null\n", "\ufeff", "\n\n"])
def test_a_file_without_anything_is_an_empty_mapping(tmp_path: Path, text: str) -> None:
    assert load(tmp_path, text) == {}


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    found = read(write(tmp_path, b"\xef\xbb\xbfname: x\n"))
    assert found.data == {"name": "x"}
    assert (found.place(("name",), key=True).line, found.place(("name",), key=True).column) == (1, 1)


@settings(max_examples=50, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_any_text_in_double_quotes_comes_back_as_it_was(folder: Path, text: str) -> None:
    quoted = "".join(f"\\U{ord(character):08X}" for character in text)
    assert load(folder, f'key: "{quoted}"\n') == {"key": text}


@settings(max_examples=50, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(10**25), 10**25) | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text(st.sampled_from("abé ."), min_size=1, max_size=4), inner, max_size=3)
        ),
        max_leaves=12,
    )
)
def test_json_is_read_as_what_it_is(folder: Path, value: Any) -> None:
    assert load(folder, json.dumps({"key": value})) == {"key": value}


# Places


def test_each_key_and_value_knows_its_place(tmp_path: Path) -> None:
    found = read(write(tmp_path, 'a: 1\n"b c":\n  - x\n  - {d: [5, 6]}\ne:\n'))

    def at(*location: str | int, key: bool = False) -> tuple[int, int, int]:
        place = found.place(location, key=key)
        return place.line, place.column, place.width

    assert at("a", key=True) == (1, 1, 1)
    assert at("a") == (1, 4, 1)
    assert at("b c", key=True) == (2, 1, 5)
    assert at("b c", 0) == (3, 5, 1)
    assert at("b c", 1, "d", key=True) == (4, 6, 1)
    assert at("b c", 1, "d", 1) == (4, 13, 1)
    assert at("e", key=True) == (5, 1, 1)
    assert found.place(("b c", 1, "d", 1)).spelling == "6"


def test_a_place_that_does_not_exist_is_that_of_what_lies_around_it(tmp_path: Path) -> None:
    found = read(write(tmp_path, "a:\n  b: 1\n"))
    assert found.place(("a", "zzz", 3)) == found.place(("a",))
    assert found.place(("nothing",)).line == 1


def test_the_caret_stands_under_the_word_also_after_wide_characters_and_tabs() -> None:
    line = "中文: [\t'ábc', xyz]"
    place = Place("f", 1, line.index("xyz") + 1, 3, (line,))
    caret = place.excerpt("here")[-1]
    assert caret == "    | " + "    " + "   " + "\t" + "       " + "^^^ here"


def test_problems_are_printed_in_the_order_of_the_file_and_counted() -> None:
    text = ("a: 1", "b: 2")
    problems = [Problem(Place("f", 2, 1, 1, text), ("b",), "second"), Problem(Place("f", 1, 1, 1, text), ("a",), "first", "mend it")]
    assert str(fail(problems)).splitlines() == [
        "f:1:1  a: first", "  1 | a: 1", "    | ^ mend it",
        "f:2:1  b: second", "  1 | a: 1", "  2 | b: 2", "    | ^",
        "2 errors. Nothing was run.",
    ]  # fmt: skip
    assert str(fail(problems[:1])).endswith("1 error. Nothing was run.")


# Refusals


def test_a_duplicate_key_is_an_error_that_names_the_first(tmp_path: Path) -> None:
    assert complaint(tmp_path, "stages:\n  clean: {}\n  clean: {a: 1}\n").splitlines() == [
        "pipeline.yaml:3:3  stages.clean: duplicate key",
        "  2 |   clean: {}",
        "  3 |   clean: {a: 1}",
        "    |   ^^^^^ first at line 2",
        "1 error. Nothing was run.",
    ]


def test_all_mistakes_of_a_file_are_told_at_once(tmp_path: Path) -> None:
    told = complaint(tmp_path, "a: 1\na: 2\nb: !!str 5\n<<: {c: 1}\n? [x]\n: 1\nd: .nan\ne: 1e999\nf: " + "9" * 31 + "\n")
    assert told.endswith("7 errors. Nothing was run.")
    assert [line.split("  ")[0] for line in told.splitlines() if line.startswith("pipeline.yaml:")] == [
        "pipeline.yaml:2:1", "pipeline.yaml:3:4", "pipeline.yaml:4:1", "pipeline.yaml:5:3", "pipeline.yaml:7:4", "pipeline.yaml:8:4",
        "pipeline.yaml:9:4",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "a: !!python/object/apply:os.system ['true']\n", "a: !!str 010\n", "a: !mine x\n", "a: &x !!int 5\n", "a: !!int &x 5\n",
        "!!map\na: 1\n",
        "!!str a: 1\n", "a:\n- &x\n  !foo b\n", "a: [!b &x c]\n",
        "a: !!binary aGk=\n", "a: ! x\n", "%TAG !e! tag:example.com,2000:\n---\na: !e!x 1\n",
        "a: !!set {x}\n", "a: !<tag:yaml.org,2002:str> 5\n", "a: {!!str b: 1}\n",
    ],
)  # fmt: skip
def test_every_written_tag_is_refused_even_a_core_one(tmp_path: Path, text: str) -> None:
    assert "is refused: only plain YAML values are read" in complaint(tmp_path, text)


@pytest.mark.parametrize("text", ["a: '!x'\n", 'a: "!!str"\n', "a: b !c\n", "a: |\n  !x\n", "a: [x, '!y']\n", "'!k': 1\n"])
def test_an_exclamation_mark_inside_text_is_no_tag(tmp_path: Path, text: str) -> None:
    assert "!" in str(load(tmp_path, text))


def test_an_alias_bomb_is_stopped_by_the_number_of_values(tmp_path: Path) -> None:
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    assert "more than 100000 values" in complaint(tmp_path, "\n".join(rows) + "\n")


def test_an_anchor_that_holds_itself_is_stopped(tmp_path: Path) -> None:
    assert "nested deeper than 32" in complaint(tmp_path, "a: &x [*x, *x]\n")


@pytest.mark.parametrize("depth", [40, 400, 2000])
def test_deep_nesting_is_refused_and_not_a_crash(tmp_path: Path, depth: int) -> None:
    assert "nested deeper than 32" in complaint(tmp_path, "a: " + "[" * depth + "]" * depth + "\n")


def test_nesting_up_to_the_limit_is_read(tmp_path: Path) -> None:
    assert load(tmp_path, "a: " + "[" * 31 + "]" * 31 + "\n")


def test_a_merge_key_is_refused_and_extends_is_named(tmp_path: Path) -> None:
    told = complaint(tmp_path, "base: &b {x: 1}\nuse:\n  <<: *b\n")
    assert "pipeline.yaml:3:3  use.<<: merge keys (<<) are not part of YAML 1.2" in told
    assert "use `extends:`" in told
    assert load(tmp_path, "'<<': 1\n") == {"<<": 1}


@pytest.mark.parametrize("raw", [b"name: \xff\xfe\n", "name: x\n".encode("utf-16"), b"name: caf\xe9\n"])
def test_a_file_in_another_encoding_is_told_with_the_byte(tmp_path: Path, raw: bytes) -> None:
    assert "not UTF-8 at byte" in complaint(tmp_path, raw)


def test_too_large_a_file_is_refused_without_reading_it_all(tmp_path: Path) -> None:
    path = tmp_path / "big.yaml"
    with path.open("wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(ConfigError, match="more than 1048576 bytes"):
        read(path)


@pytest.mark.parametrize(("text", "found"), [("- a\n- b\n", "a list"), ("hello\n", "'hello'"), ("5\n", "5")])
def test_a_file_that_is_no_mapping_says_what_it_is(tmp_path: Path, text: str, found: str) -> None:
    assert f"pipeline.yaml:1:1  expected a mapping of settings, found {found}" in complaint(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("a: [1, 2\nb: 3\n", "pipeline.yaml:2:2"), ("a: 'x\n", "pipeline.yaml:2:1"), ("a: *missing\n", "pipeline.yaml:1:4"),
        ("a: 1\n---\nb: 2\n", "pipeline.yaml:2:1"),
        ("a: x\n\tb: 1\n", "pipeline.yaml:2:1"), ("name: x\nb: \x07\n", "pipeline.yaml:2:4"), ("a: b: c\n", "pipeline.yaml:1:5"),
    ],
)  # fmt: skip
def test_what_is_not_yaml_is_told_with_its_place(tmp_path: Path, text: str, place: str) -> None:
    assert complaint(tmp_path, text).startswith(place)


def test_half_a_surrogate_pair_is_refused(tmp_path: Path) -> None:
    told = complaint(tmp_path, 'a: "\\ud800"\n"\\udfff": 1\n')
    assert told.count("half a surrogate pair is not a character") == 2


def test_a_missing_file_and_a_folder_are_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none.yaml: no such file\. Give the path"):
        read(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        read(tmp_path)


# Extends


def test_extending_merges_mappings_replaces_the_rest_and_null_removes(tmp_path: Path) -> None:
    write(tmp_path, "name: base\nlanguages: [en, de]\nseed: 3\nstages:\n  a: {x: 1, y: {z: 1, w: 2}}\n  b: {}\n", "base.yaml")
    over = "extends: ../base.yaml\nname: top\nlanguages: [no]\nseed: null\nstages:\n  a: {y: {z: null, v: 3}}\n  c: {k: 1}\n"
    path = write(tmp_path, over, "sub/p.yaml")
    assert read(path).data == {
        "name": "top",
        "languages": ["no"],
        "stages": {"a": {"x": 1, "y": {"w": 2, "v": 3}}, "b": {}, "c": {"k": 1}},
    }
    assert read(path).path == path


def test_null_switches_a_stage_off_but_removes_any_other_setting(tmp_path: Path) -> None:
    write(tmp_path, "cluster: {workers: 4}\nstages:\n  a: {x: 1}\n", "base.yaml")
    path = write(tmp_path, "extends: base.yaml\ncluster: {workers: null, memory: null}\nstages:\n  a: null\n  b: {k: null}\n")
    assert read(path).data == {"cluster": {}, "stages": {"a": None, "b": {}}}


def test_a_stage_switched_off_below_can_be_switched_on_above(tmp_path: Path) -> None:
    write(tmp_path, "stages:\n  a: null\n", "base.yaml")
    assert read(write(tmp_path, "extends: base.yaml\nstages:\n  a: {x: 1}\n")).data == {"stages": {"a": {"x": 1}}}


def test_each_value_keeps_the_place_in_the_file_it_came_from(tmp_path: Path) -> None:
    base = write(tmp_path, "\n\nstages:\n  a:\n    x: 1\n    y: 2\n", "base.yaml")
    path = write(tmp_path, "extends: base.yaml\nstages:\n  a:\n    y: 3\n")
    found = read(path)
    assert str(found.place(("stages", "a", "x"))) == f"{base}:5:8"
    assert str(found.place(("stages", "a", "y"))) == f"{path}:4:8"
    assert str(found.place(("stages", "a", "y"), key=True)) == f"{path}:4:5"


def test_replacing_a_mapping_forgets_the_places_inside_it(tmp_path: Path) -> None:
    write(tmp_path, "a:\n  b: [1, 2, 3]\n", "base.yaml")
    path = write(tmp_path, "extends: base.yaml\na:\n  b: [9]\n")
    found = read(path)
    assert ("a", "b", 2) not in found.values
    assert str(found.place(("a", "b", 2))) == f"{path}:3:6"


def test_a_mistake_in_the_extended_file_points_into_that_file(tmp_path: Path) -> None:
    base = write(tmp_path, "a: 1\na: 2\n", "base.yaml")
    with pytest.raises(ConfigError) as caught:
        read(write(tmp_path, "extends: base.yaml\n"))
    assert str(caught.value).startswith(f"{base}:2:1  a: duplicate key")


@pytest.mark.parametrize("chain", [["a"], ["a", "b"], ["a", "b", "c"]])
def test_a_circle_of_files_is_refused_at_the_line_that_closes_it(tmp_path: Path, chain: list[str]) -> None:
    for here, there in zip(chain, [*chain[1:], chain[0]], strict=True):
        write(tmp_path, f"x: 1\nextends: {there}.yaml\n", f"{here}.yaml")
    with pytest.raises(ConfigError) as caught:
        read(tmp_path / "a.yaml")
    assert f"{chain[-1]}.yaml:2:10  extends: a.yaml extends this file again: a circle" in str(caught.value)


def test_two_files_may_extend_the_same_one(tmp_path: Path) -> None:
    write(tmp_path, "x: 1\n", "base.yaml")
    write(tmp_path, "extends: base.yaml\ny: 2\n", "middle.yaml")
    assert read(write(tmp_path, "extends: middle.yaml\nz: 3\n")).data == {"x": 1, "y": 2, "z": 3}


def test_a_missing_extended_file_is_told_at_the_line_that_names_it(tmp_path: Path) -> None:
    assert "pipeline.yaml:2:10  extends: there is no file" in complaint(tmp_path, "a: 1\nextends: none.yaml\n")
    assert "pipeline.yaml:1:10  extends: expected a path, found a list" in complaint(tmp_path, "extends: [a]\n")


# Overrides


def plain(data: dict[str, Any]) -> Document:
    return Document(data, Path("pipeline.yaml"))


@pytest.mark.parametrize(
    ("argument", "value"),
    [("5", 5), ("no", "no"), ("1e-4", 1e-4), ("true", True), ("'5'", "5"), ("[en, no]", ["en", "no"]), ("{a: {b: 1}}", {"a": {"b": 1}}),
     ("a=b", "a=b"), ("s3://b/{lang}/*.txt", "s3://b/{lang}/*.txt"), ("/data/ünï x", "/data/ünï x")],
)  # fmt: skip
def test_an_override_is_typed_as_yaml(argument: str, value: object) -> None:
    found = with_overrides(plain({"stages": {"x": {"k": 0, "j": 1}}}), [f"stages.x.k={argument}"])
    assert found.data == {"stages": {"x": {"k": value, "j": 1}}}


def test_overrides_make_what_is_not_there_apply_in_order_and_null_removes() -> None:
    found = with_overrides(plain({"a": {"b": 1}}), ["stages.new.deep=1", "a.b=2", "a.b=3", "a.c=null", "seed=null", "stages.off=null"])
    assert found.data == {"a": {"b": 3}, "stages": {"new": {"deep": 1}, "off": None}}
    assert with_overrides(found, ["a.b=null"]).data["a"] == {}


def test_overrides_do_not_change_the_document_they_are_applied_to() -> None:
    before = plain({"a": {"b": [1]}})
    with_overrides(before, ["a.b=2", "a.c=3"])
    assert before.data == {"a": {"b": [1]}}


def test_a_place_inside_an_override_names_its_argument() -> None:
    found = with_overrides(plain({}), ["a.b=[x, {c: 1}]"])
    assert str(found.place(("a", "b", 1, "c"))) == "override 'a.b'"
    assert str(found.place(("a",), key=True)) == "override 'a.b'"


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ("steps", "'steps' is not an override: write it as stages.pretrain.steps=100"), ("=5", "'=5' is not an override"),
        ("a..b=5", "'a..b=5' is not an override"), ("a.b=", "'a.b=' gives no value. Write a.b=null"),
        ("a.b=[1", "override 'a.b'  not YAML: "), ("a=*.txt", "quote a value that begins with a sign"),
        ("a={x: 1, x: 2}", "override 'a'  x: duplicate key"), ("a=!!python/none x", "is refused: only plain YAML"),
    ],
)  # fmt: skip
def test_a_wrong_override_says_how_to_write_it(argument: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        with_overrides(plain({}), [argument])
    assert told in str(caught.value)
    assert "\n  1 |" not in str(caught.value)


def test_the_limits_are_those_that_the_tests_above_speak_of() -> None:
    assert (document.MAX_BYTES, document.MAX_DEPTH, document.MAX_NODES) == (1 << 20, 32, 100_000)
