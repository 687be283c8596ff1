"""docs/writing-a-search-space.md shows YAML that works, and figures that are so."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from diffusers import AutoencoderKL, UNet2DConditionModel

from nas.random_teacher import TOY_UNET, TOY_VAE
from search_spaces.errors import UserError
from search_spaces.space import SearchSpace
from search_spaces.space_file import load_space, preset_names
from search_spaces.starting_space import starting_space
from search_spaces.teacher_fit import load_fitting_space

PAGE = (Path(__file__).parents[2] / "docs" / "writing-a-search-space.md").read_text(encoding="utf-8")
BLOCKS = [yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)]


def sizes(options: dict[str, Any]) -> dict[str, int]:
    space = SearchSpace.model_validate({"name": "shown", "options": options})
    return dict(zip(space.stages, space.stage_sizes, strict=True))


def test_the_yaml_works() -> None:
    stages, vae, candidates, repeated, editor = BLOCKS
    assert sizes(stages["options"]) == {"E1": 3, "E2": 16}
    assert sizes({"E2": {**stages["options"]["E2"], "heads": [1, 0.5]}}) == {"E2": 24}
    assert sizes(vae) == {"VE": 1, "VD": 1 + 2**2 * 2**2, "steps": 3}
    assert candidates["candidates"].items() <= load_space("nanosd").candidates.items()
    assert sizes(repeated)["E1"] == sizes(repeated)["E2"] == sizes(repeated)["E3"] / 2 == 6
    assert editor is None


def test_the_presets_are_all_listed_with_their_sizes() -> None:
    listed = re.findall(r"^\| \[([\w-]+)\]\(\S+\) \| ([\d,]+) \|", PAGE, flags=re.MULTILINE)
    assert {name: int(size.replace(",", "")) for name, size in listed} == {
        name: load_space(name).num_candidates for name in preset_names()
    }


def test_the_errors_are_the_ones_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with torch.device("meta"):
        unet, vae = UNet2DConditionModel(**TOY_UNET), AutoencoderKL(**TOY_VAE)
    text = starting_space(unet, vae, "my_space")
    for wrong in ("1.5", "0.3"):
        Path("my_space.yaml").write_text(
            text.replace("    # resnet_width: [1, 0.5]", f"    resnet_width: [1, {wrong}]", 1)
        )
        with pytest.raises(UserError) as caught:
            load_fitting_space("my_space.yaml", unet, vae)
        assert f"nanosd: {caught.value}\n" in PAGE
