"""The language table: complete, unambiguous, light."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import ConfigError
from pipeline.text.languages import NAMED_SETS, known, lookup, resolve

_XLMR_TEXT = (
    "af am ar as az be bg bn br bs ca cs cy da de el en eo es et eu fa fi fr fy ga gd gl gu ha he hi hr hu hy id is it ja jv ka kk km "
    "kn ko ku ky la lo lt lv mg mk ml mn mr ms my ne nl no om or pa pl ps pt ro ru sa sd si sk sl so sq sr su sv sw ta te th tl tr ug "
    "uk ur uz vi xh yi zh"
)
XLMR = _XLMR_TEXT.split()


def test_every_canonical_code_and_alias_leads_to_its_own_language_in_any_case_and_with_either_separator() -> None:
    for language in known():
        for spelling in (language.code, *language.aliases):
            for form in (spelling, spelling.upper(), spelling.lower(), spelling.replace("_", "-"), spelling.replace("-", "_")):
                assert lookup(form) is language


def test_the_table_is_well_formed() -> None:
    codes = [language.code for language in known()]
    assert len(codes) >= 250 and codes == sorted(set(codes))
    rtl = {"Arab", "Hebr", "Syrc", "Thaa", "Nkoo", "Adlm"}
    for language in known():
        assert language.direction == ("rtl" if language.script in rtl else "ltr"), language
        assert len(language.script) == 4 and len(language.iso639_3) == 3 and language.name, language
    stems = [language.udhr for language in known() if language.udhr]
    assert len(stems) == len(set(stems)) >= 130


@pytest.mark.parametrize(
    ("spelling", "code"),
    [
        ("no", "nb"), ("nob_Latn", "nb"), ("iw", "he"), ("in", "id"), ("zh", "zh-Hans"), ("cmn", "zh-Hans"), ("zho_Hant", "zh-Hant"),
        ("arb", "ar"), ("cmn_hans", "zh-Hans"), ("deu_1996", "de"), ("por_PT", "pt"), ("ell_monotonic", "el"), ("hau_NG", "ha"),
        ("zho-Hans", "zh-Hans"), ("eng_Latn", "en"), ("ces", "cs"), ("srp-Cyrl", "sr"), ("jw", "jv"), ("ji", "yi"), ("mo", "ro"), ("fil", "tl"), ("pes_Arab", "fa"),
        ("srp-Latn", "sr-Latn"), ("sr", "sr"), ("gaz_Latn", "om"), ("aze-Latn", "az"), ("zho-TW", "zh-Hant"),
    ],
)  # fmt: skip
def test_names_of_other_data_sets_are_understood(spelling: str, code: str) -> None:
    assert lookup(spelling).code == code


def test_scripts_without_spaces_are_marked() -> None:
    unspaced = {language.code for language in known() if not language.spaced}
    assert {"zh-Hans", "zh-Hant", "ja", "th", "km", "lo", "my", "bo", "dz", "yue"} <= unspaced
    assert not {"ko", "vi", "hi", "am", "ka", "en"} & unspaced


def test_xlmr_has_all_93_languages_with_norwegian_and_chinese_in_both_scripts() -> None:
    assert len(XLMR) == 93
    assert {lookup(code).code for code in XLMR} | {"zh-Hant"} == set(NAMED_SETS["xlmr"])


def test_udhr100_is_100_languages_each_with_its_own_file_in_many_scripts() -> None:
    languages = [lookup(code) for code in NAMED_SETS["udhr100"]]
    assert len({language.udhr for language in languages if language.udhr}) == 100 == len(languages)
    assert len({language.script for language in languages}) >= 25


def test_resolve_keeps_the_order_and_takes_sets_and_single_codes() -> None:
    assert resolve(["sw", "no", "zho_Hans"]) == ("sw", "nb", "zh-Hans")
    assert resolve("xlmr") == NAMED_SETS["xlmr"]
    assert resolve("no") == ("nb",)


@pytest.mark.parametrize(
    ("languages", "words"),
    [
        (["no", "en", "nb"], "'nb' and 'no' both mean 'nb'"),
        ("xlmrr", "neither a named set (flores, udhr100, xlmr) nor a language code"),
        (["germn"], "'de' (German)"),
        (["norwegian bokmal"], "'nb' (Norwegian Bokmål)"),
        ([], "empty"),
        ([False], "bool"),
    ],
)
def test_a_wrong_language_is_refused_with_advice(languages: str | list[str], words: str) -> None:
    with pytest.raises(ConfigError) as error:
        resolve(languages)
    assert words in str(error.value)


def test_importing_the_table_loads_nothing_but_the_standard_library() -> None:
    program = (
        "import sys, json; before = set(sys.modules); import pipeline.text.languages; print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    loaded = {name.split(".")[0] for name in json.loads(run.stdout)}
    assert loaded - {"pipeline"} <= set(sys.stdlib_module_names)


def test_every_file_of_sib200_is_of_a_language_of_flores_in_the_script_that_its_name_says(data: Path) -> None:
    names = sorted(path.name for path in (data / "sib200").iterdir() if path.is_dir())
    assert {lookup(name).code for name in names} <= set(NAMED_SETS["flores"])
    assert len({lookup(name).code for name in names}) == len(names) > 180
    assert {name: lookup(name).script for name in names} == {name: name[-4:] for name in names}


def test_every_file_of_ntrex128_is_known_in_the_script_that_its_name_says(data: Path) -> None:
    names = [path.name.split(".")[1] for path in (data / "ntrex128").glob("newstest2019-ref*.*.txt")]
    listed = {line.split()[0] for line in (data / "ntrex128" / "LANGUAGES.tsv").read_text(encoding="utf-8").splitlines() if line}
    assert set(names) <= listed and len(names) > 110
    regions = {"eng-GB", "eng-IN", "eng-US", "fra-CA", "por-BR", "spa-MX"}  # one language, two files
    assert len({lookup(name).code for name in set(names) - regions}) >= len(set(names) - regions) - 2
    for name in names:
        script = name.partition("-")[2]
        if len(script) == 4:
            assert lookup(name).script == script, name
