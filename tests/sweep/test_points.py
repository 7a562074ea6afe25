"""The points of a space, and the commands that make them."""

from pathlib import Path

import pytest
from jsonargparse import Namespace

from lit_talr.cli.command_line import main
from lit_talr.cli.fit_parser import fit_parser
from lit_talr.sweep.points import find_base_model, list_points, parse_configs
from lit_talr.sweep.space import read_space
from tests.sweep.stub import COMMON, write_space

FOLDER = Path(__file__).parents[2] / "configs" / "sweep"
SWEEPS = sorted(FOLDER.rglob("*.yaml"))


def test_points_have_names_and_words_in_order(tmp_path: Path) -> None:
    space = read_space(
        Path(
            write_space(
                tmp_path,
                rates=["3e-4"],
                seeds=[2],
                seed_words=["--data.seed"],
                variants={"cot": ["--data.target", "cot"], "label": ["--data.target", "label", "--data.shuffle", True]},
                remedies={"standard": ["-c", "S"], "lora": {"words": ["-c", "L"], "rates": ["1e-3", 1]}},
                alphas=[0.5, 1],
                methods=["lines", "linear"],
                paper={"cot/lora/0.001": {"domain": 0.1, "general": "0.2"}, "label/base": {"domain": 0, "general": 1}},
            )
        )
    )
    config = Namespace(model=Namespace(pretrained="some/base", revision=None))
    found = list_points(space, ["--a", "b"], ["--extra"], Path("o"), parse_configs(space, ["--a", "b"], lambda words: config))
    trials = [f"{variant}-{name}" for variant in ("cot", "label") for name in ("standard-3e-4-s2", "lora-1e-3-s2", "lora-1e0-s2")]
    wise = [f"{variant}-standard-3e-4-s2-{merge}-{alpha}" for variant in ("cot", "label") for merge in ("wise", "lines") for alpha in ("0.5", "1")]
    assert {point.name for point in found} == {"cot-base", "label-base", *trials, *wise}
    by_name = {point.name: point for point in found}
    assert by_name["cot-base"].lines() == ["lit-talr test --a b --data.target cot -c S --run o/cot-base"]
    assert by_name["label-lora-1e-3-s2"].lines() == [
        "lit-talr fit --a b --data.target label --data.shuffle true -c L "
        "--model.optimizer.lr 1e-3 --seed_everything 2 --data.seed 2 --extra --run o/label-lora-1e-3-s2",
        "lit-talr test -c o/label-lora-1e-3-s2/config.yaml --ckpt_path last",
    ]
    point = by_name["cot-standard-3e-4-s2-wise-0.5"]
    assert point.lines()[0] == "lit-talr merge --base some/base --tuned o/cot-standard-3e-4-s2/export --alpha 0.5 --out o/cot-standard-3e-4-s2-wise-0.5/merged"
    expected = {"variant": "cot", "remedy": "wise-ft", "rate": 3e-4, "seed": 2, "alpha": 0.5, "of": "cot-standard-3e-4-s2", "source": "standard"}
    assert point.record().items() >= {**expected, "base": "cot-base", "paper": None}.items()
    lines = by_name["cot-standard-3e-4-s2-lines-0.5"]
    assert lines.lines()[0] == point.lines()[0].replace("-wise-", "-lines-").replace(" --out", " --method lines --out")
    assert lines.record().items() >= {**expected, "remedy": "lines", "base": "cot-base"}.items() and not lines.is_trial
    assert by_name["cot-lora-1e-3-s2"].paper == {"domain": 0.1, "general": 0.2} and by_name["label-base"].paper == {"domain": 0.0, "general": 1.0}


def test_a_remedy_is_tried_in_its_variants(tmp_path: Path) -> None:
    """Elsewhere it is neither parsed nor run, and the base model has the words of a remedy that is."""
    remedies = {"lora": {"words": ["-c", "L"], "variants": ["label"]}, "standard": ["-c", "S"]}
    space = read_space(Path(write_space(tmp_path, rates=[1], seeds=[0], variants={"cot": ["--c"], "label": ["--l"]}, remedies=remedies)))
    parsed: list[list[str]] = []
    configs = parse_configs(space, [], lambda words: parsed.append(list(words[:3])) or Namespace())
    points = list_points(space, [], [], Path("o"), configs)
    assert parsed == [["--c", "-c", "S"], ["--l", "-c", "L"], ["--l", "-c", "S"]]
    assert [point.name for point in points] == ["cot-base", "label-base", "cot-standard-1e0-s0", "label-lora-1e0-s0", "label-standard-1e0-s0"]
    assert [point.commands[0][1:4] for point in points[:2]] == [["--c", "-c", "S"], ["--l", "-c", "L"]]


def test_two_remedies_may_be_the_same_in_different_variants(tmp_path: Path) -> None:
    remedies = {name: {"words": ["-c", "S"], "variants": [variant]} for name, variant in (("a", "cot"), ("b", "label"))}
    assert set(read_space(Path(write_space(tmp_path, variants={"cot": ["--c"], "label": ["--l"]}, remedies=remedies))).remedies) == {"a", "b"}


def test_the_base_model_is_that_of_the_configuration(tmp_path: Path) -> None:
    """The last of words and files counts, as for fit."""
    (tmp_path / "a.yaml").write_text("model: {pretrained: of/file}")
    parse = fit_parser()

    def base_model(*more: str) -> str:
        return find_base_model(parse([*COMMON, "-c", "configs/loss/talr.yaml", *more]))

    file = ["-c", str(tmp_path / "a.yaml")]
    assert base_model("--model.pretrained", "of/words", *file) == "of/file"
    assert base_model(*file, "--model.pretrained=of/words") == "of/words"
    with pytest.raises(ValueError, match="a merge interpolates with the base model, and none is named"):
        base_model(*file, "--model.pretrained", "null", "--model.tokenizer", "some/tokenizer")
    with pytest.raises(ValueError, match="a merge does not know `model.revision`"):
        base_model(*file, "--model.revision", "v2")


@pytest.mark.parametrize("file", [pytest.param(path, marks=[] if path.stem == "real_small" else pytest.mark.slow, id=path.stem) for path in SWEEPS])
def test_shipped_spaces_are_found_from_any_folder(tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Each fit that would run is one that the parser takes, with its rate."""
    monkeypatch.chdir(tmp_path)
    data = {"medcalc_tables": ["data/medcalc"]}.get(file.stem, ["model/lab", "data/clinic"])
    common = [word for part in ("base", *data) for word in ("-c", f"configs/{part}.yaml")]
    main(["sweep", *common, "--space", f"configs/sweep/{file.relative_to(FOLDER)}", "--out", "o", "--dry-run"])
    fits = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("lit-talr fit")]
    parse = fit_parser()
    for words in (fits[0], fits[-1]):
        rate = words[words.index("--model.optimizer.lr") + 1]
        assert parse(words[2:]).model.optimizer.init_args.lr == float(rate)
