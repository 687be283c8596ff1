"""What a recipe needs and this machine lacks is said before hours are spent, and leaves no run behind."""

from pathlib import Path

import pytest

from nas import run
from nas.config import load_recipe
from nas.errors import UserError
from nas.progress import Progress


def test_a_sampler_whose_library_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.search.qlognehvi.find_spec", lambda name: None)
    recipe = load_recipe(None, ["search.sampler=qlognehvi"])
    with pytest.raises(UserError, match=r"sampler 'qlognehvi' needs BoTorch.*pip install 'nanosd-nas\[botorch\]'"):
        run.search(recipe, tmp_path / "run", None, Progress())
    assert not (tmp_path / "run").exists()
