import subprocess
import sys

import pytest

from pipeline.errors import ConfigError
from pipeline.model.sizes import SIZES, ModelSize, count_parameters, named_size


def test_the_published_sizes_have_the_published_numbers_of_parameters() -> None:
    assert count_parameters(SIZES["xlm-r-base"]) == pytest.approx(278e6, rel=0.005)
    assert count_parameters(SIZES["xlm-r-large"]) == pytest.approx(560e6, rel=0.005)
    assert count_parameters(SIZES["xlm-15"]) == pytest.approx(250e6, rel=0.02)
    assert count_parameters(SIZES["xlm-100"]) == pytest.approx(570e6, rel=0.02)


def test_the_count_is_that_of_the_model_that_is_built() -> None:
    from pipeline.model.build import build_masked_lm

    size = ModelSize(3, 32, 4, 48, 514, None)
    model = build_masked_lm(size, 101, seed=0, dropout=0.1, max_length=20)
    assert count_parameters(size, vocab_size=101, max_positions=22) == sum(p.numel() for p in model.parameters())


def test_heads_divide_the_width_in_every_size() -> None:
    assert all(size.hidden % size.heads == 0 for size in SIZES.values())


def test_an_unknown_size_is_refused_with_the_list_of_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"xlm-r-bass.*xlm-r-base"):
        named_size("xlm-r-bass")


def test_a_size_without_a_vocabulary_is_not_counted() -> None:
    with pytest.raises(ConfigError, match=r"vocabulary\.size"):
        count_parameters(SIZES["mini"])


def test_sizes_are_known_without_loading_torch() -> None:
    code = "import sys, pipeline.model.sizes; print(sorted({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
