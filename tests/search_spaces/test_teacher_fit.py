"""A file that does not fit a teacher is refused with the line of the value that does not, and only then."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from search_spaces.errors import UserError
from search_spaces.space import SearchSpace
from search_spaces.space_file import load_space, preset_names
from search_spaces.stage_costs import check_space
from search_spaces.teacher_fit import load_fitting_space

GOOD = """\
name: mine
options:
  E1:
    word:
      - RARA
      - RA
      - R
    resnet_width: [1, 0.5]
    ff_width: [1, 0.25]
    heads: [1, 0.5]
    attention: [both, cross, self, none]
    conv: [full, separable]
  E2: [RARA, R_w0.5]
  E3: &plain [RA, R]
  deep:
    word: [none, RR.RAR.RRR, R.x.RR]
    resnet_width: [1, 0.5]
  D3: [RARARA, RR]
  D2: *plain
  D1: [RARARA, R@3]
  VE:
    kind: [teacher, tiny]
    width: [[16], [16], [16], [16]]
    depth: [[1], [1], [1], [1]]
  VD: [teacher, 8x1.8x1.8x1.8x1]
  steps: [1, 2]
"""


@pytest.fixture(scope="module")
def vae() -> AutoencoderKL:
    with torch.device("meta"):
        return AutoencoderKL(
            block_out_channels=(8, 16, 16, 16), norm_num_groups=4, down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
        )  # fmt: skip


Load = Callable[[str], SearchSpace]


@pytest.fixture
def load(small_unet: UNet2DConditionModel, vae: AutoencoderKL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    monkeypatch.chdir(tmp_path)

    def load(text: str) -> SearchSpace:
        Path("space.yaml").write_text(text)
        return load_fitting_space("space.yaml", small_unet, vae)

    return load


def test_a_file_that_fits_is_loaded(load: Load) -> None:
    assert load(GOOD).model_dump() == load_space("space.yaml").model_dump()


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "[1, 0.5]\n    ff",
            "[1, 0.3]\n    ff",
            "8: E1.resnet_width: 0.3 leaves 4.8 of 16 hidden channels, which 8 gr",
        ),
        ("[1, 0.25]", "[1, 0.3]", "9: E1.ff_width: 0.3 leaves 19.2 of 64 hidden units, no whole number; legal are"),
        ("heads: [1, 0.5]", "heads: [1, 0.6]", "10: E1.heads: 0.6 leaves 2.4 of 4 attention heads, no whole"),
        ("      - RA\n", "      - RARARA\n", "6: E1: 'RARARA' has 3 R but the teacher's RARA has 2; use at most 2$"),
        ("RARA, R_w0.5", "R, R_w0.3", "13: E2: 'R_w0.3': resnet_width 0.3 leaves 9.6 of 32"),
        ("RR.RAR.RRR,", "RRR.RAR.RRR,", "16: deep: 'RRR' has 3 R but the teacher's RR has 2"),
        ("R.x.RR]\n    resnet_width: [1, 0.5]", "R.x.RR]\n    heads: [1, 0.3]", "17: deep.heads: 0.3 leaves 1.2 of 4"),
        ("[RARARA, R@3]", "[RARARA, R@4]", "20: D1: 'R@4' must name 1 of the skips 1 to 3"),
        ("[RARARA, RR]", "[RARARA, RR@1+3]", "18: D3: write option 'RR@1\\+3' as 'RR'$"),
        ("8x1.8x1.8x1.8x1", "8x1.8x1", "25: VD: '8x1.8x1' has 2 levels, but the teacher's VAE has 4; give 4$"),
        (
            "[16], [16], [16], [16]]\n    depth: [[1], [1], [1], [1]]",
            "[16], [16]]\n    depth: [[1], [1]]",
            "23: VE.width: has 2 levels, but the teacher's VAE has 4; give 4$",
        ),
    ],
)
def test_what_does_not_fit_is_named_with_its_line(load: Load, old: str, new: str, expected: str) -> None:
    assert GOOD.count(old) == 1, old
    with pytest.raises(UserError) as caught:
        load(GOOD.replace(old, new))
    assert "\n" not in str(caught.value)
    assert re.match(f"space.yaml:{expected}", str(caught.value))


def test_all_problems_are_counted_and_the_first_in_the_file_is_shown(load: Load) -> None:
    text = GOOD.replace("      - RA\n", "      - RARARA\n").replace("[1, 0.25]", "[0.3, 0.7]").replace("R@3", "R@4")
    with pytest.raises(UserError, match=r"^space.yaml:6: E1: 'RARARA' has 3 R .* \(and 3 more after this\)$"):
        load(text)
    only = GOOD.replace("- RARA\n      - RA\n      - R\n", "- RRR\n").replace("[1, 0.25]", "[0.3, 0.7]")
    with pytest.raises(UserError, match=r"^space.yaml:5: E1: 'RRR' has 3 R .* \(and 2 more after this\)$"):
        load(only)


def test_values_that_no_word_uses_are_no_problem(load: Load) -> None:
    words = GOOD.replace("- RARA\n      - RA\n      - R\n", "- RR\n      - R\n").replace(
        "heads: [1, 0.5]", "heads: [1, 0.3]"
    )
    assert load(words).stage_sizes[0] == 2 * 2 * 2
    with pytest.raises(
        UserError, match=r"^space.yaml:6: E1: 'RRR' has 3 R but the teacher's RARA has 2; use at most 2$"
    ):
        load(words.replace("- R\n", "- RRR\n", 1))


@pytest.mark.parametrize("name", preset_names())
def test_it_agrees_with_the_check_of_the_cost_tables(
    name: str, small_unet: UNet2DConditionModel, small_sdxl: UNet2DConditionModel, vae: AutoencoderKL
) -> None:
    space = load_space(name)
    check_space(small_unet, space, vae)
    assert load_fitting_space(name, small_unet, vae).model_dump() == space.model_dump()
    with pytest.raises(UserError):
        check_space(small_sdxl, space, vae)
    with pytest.raises(
        UserError, match=rf"^{name}.yaml:\d+: options: stages are E1 .*; this teacher's are E1 E2 deep D2 D1"
    ):
        load_fitting_space(name, small_sdxl, vae)
