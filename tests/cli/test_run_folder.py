"""A path that is no model, or no run, is answered with the folder that is meant."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lit_talr.cli.run_folder import check_place
from lit_talr.curriculum import curriculum
from lit_talr.heatmap.run import read_run
from lit_talr.report.runs import find
from lit_talr.utils.weight_files import model_folder


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


@pytest.mark.parametrize(
    ("refuse", "given", "meant"),
    [
        (model_folder, "run/checkpoints/last.ckpt", "run/export"),
        (model_folder, "run/export/model.safetensors", "run/export"),
        (lambda name: read_run(Path(name)), "run/export", "run"),
        (lambda name: curriculum(Path(name)), "run/export", "run"),
        (lambda name: find([Path(name)]), "run/checkpoints/last.ckpt", "run"),
        (lambda name: find([Path(name)]), "run/export", "run"),
    ],
)
def test_a_folder_of_the_wrong_kind_names_the_one_beside_it(tmp_path: Path, refuse: Callable[[str], object], given: str, meant: str) -> None:
    run = ("config.yaml", "metrics.json", "token_probability.parquet", "checkpoints/last.ckpt")
    for file in (*run, "export/config.json", "export/model.safetensors"):
        (tmp_path / "run" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / file).touch()
    with pytest.raises(ValueError, match=rf"{given}.*; did you mean {tmp_path / meant}\?$"):
        refuse(str(tmp_path / given))
