"""A path that is no model is answered with the folder that is meant."""

from pathlib import Path

import pytest

from lit_talr.cli.run_folder import check_place


@pytest.mark.parametrize(
    ("given", "meant"),
    [("run/export/model.safetensors", "run/export"), ("run/checkpoints/last.ckpt", "run/export"), ("run", "run/export"), ("rum", "run")],
)
def test_the_folder_that_is_meant(tmp_path: Path, given: str, meant: str) -> None:
    for file in ("run/export/config.json", "run/export/model.safetensors", "run/checkpoints/last.ckpt"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    with pytest.raises(ValueError, match=f"{given} is not a folder with a config.json; did you mean {tmp_path / meant}.$"):
        check_place("model.pretrained", str(tmp_path / given), "config.json")
