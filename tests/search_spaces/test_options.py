"""Words over R and A."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces.errors import UserError
from search_spaces.options import decoder_word, deep_word, default_skips, encoder_word, side_of


@given(st.lists(st.booleans(), min_size=1, max_size=3))
def test_a_word_lists_its_layers(attention: list[bool]) -> None:
    text = "".join("RA" if a else "R" for a in attention)
    word = decoder_word("D1", text, "RARARA")
    assert word.text == text
    assert [layer.attention for layer in word.layers] == attention
    assert tuple(layer.skip for layer in word.layers) == default_skips(len(attention), 3)


@given(st.text(alphabet="RA@123+x.", max_size=8))
def test_any_text_is_a_word_or_one_line_of_complaint(text: str) -> None:
    try:
        word = decoder_word("D2", text, "RARARA")
    except UserError as error:
        assert "\n" not in str(error) and str(error).startswith("D2")
    else:
        assert re.fullmatch(r"(RA?){1,3}(@[123](\+[123])*)?", text)
        assert decoder_word("D2", word.text, "RARARA") == word, "the canonical text reads back as itself"


def test_skips_follow_bk_sdm_by_default_and_the_word_otherwise() -> None:
    assert [layer.skip for layer in decoder_word("D1", "RARA", "RARARA").layers] == [0, 2]
    assert [layer.skip for layer in decoder_word("D1", "R@3", "RARARA").layers] == [2]
    assert decoder_word("D1", "RR@1+3", "RARARA").text == "RR"


@pytest.mark.parametrize("text", ["AR", "", "RAA", "B", "RARARARA", "R@4", "R@0", "R@1+2", "RR@2+1", "R@", "R@x"])
def test_bad_decoder_words_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="D3"):
        decoder_word("D3", text, "RARARA")


def test_attention_needs_a_teacher_with_attention() -> None:
    with pytest.raises(UserError, match="has attention but the teacher"):
        encoder_word("E4", "RA", "RR")


def test_the_deep_path() -> None:
    teacher = "RR.RAR.RRR"
    assert not deep_word("none", teacher).kept
    assert deep_word("R.x.RR", teacher).mid is False
    assert deep_word(teacher, teacher).text == teacher
    for text in ("R.R.RR", "RR", "RA.RAR.RR", "R.RAR.RRRR"):
        with pytest.raises(UserError, match="deep"):
            deep_word(text, teacher)


def test_unknown_stage_names_what_is_legal() -> None:
    with pytest.raises(UserError, match="E1, E2"):
        side_of("F1")
