"""Wise-FT and averages: the formula, to the bit at its ends, and nothing written where something is wrong."""

import io
import json
import logging
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from lit_talr.checkpoint.merge import merge
from lit_talr.cli.command_line import main
from lit_talr.modeling.generation import remark
from lit_talr.modeling.loading import load_model
from lit_talr.utils.identity import folder_weights
from lit_talr.utils.manifest import MANIFEST
from tests.helpers.full_disk import small_files
from tests.helpers.models import ARCHITECTURES
from tests.helpers.tiny import save_tokenizer

IGNORED = "model.layers.0.self_attn.rotary_emb.inv_freq"
"""A tensor that a model may have in its files, and that nothing reads."""
CARD = "---\nlibrary_name: transformers\n---\n\n# Tuned\n\nText.\n\n## Commands\n\n```\nlit-talr fit\n```\n\n## Scores\n\n| test/score | 1.0 |\n"


def model(folder: Path, seed: int, family: str = "qwen3", dtype: torch.dtype = torch.float32, shard_size: str = "1GB") -> Path:
    torch.manual_seed(seed)
    load_model(None, None, ARCHITECTURES[family], 300, None).to(dtype).save_pretrained(folder, max_shard_size=shard_size)
    save_tokenizer(folder)
    return folder


def state(folder: Path) -> dict[str, Tensor]:
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(torch.uint8)


def same_bits(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(bits(first[name]), bits(second[name])) for name in first)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return model(tmp_path / "base", 1, shard_size="10KB")


@pytest.fixture
def tuned(tmp_path: Path) -> Path:
    folder = model(tmp_path / "tuned", 2, shard_size="30KB")
    (folder / "README.md").write_text(CARD)
    return folder


def plant(folder: Path, values: list[float]) -> None:
    """Put odd values where both models have them."""
    file = next(path for path in folder.glob("*.safetensors") if "model.norm.weight" in load_file(path))
    weights = load_file(file)
    weights["model.norm.weight"][: len(values)] = torch.tensor(values)
    save_file(weights, file, metadata={"format": "pt"})


def test_alpha_0_is_bitwise_the_base_and_alpha_1_the_tuned_model(base: Path, tuned: Path, tmp_path: Path) -> None:
    plant(base, [-0.0, 3e38, -3e38, 1e-45])
    plant(tuned, [3e38, -0.0, -3e38, -1e-45])
    merge(tmp_path / "out", str(tuned), str(base), [0.0, 1.0])
    assert same_bits(state(tmp_path / "out" / "alpha-0"), state(base))
    assert same_bits(state(tmp_path / "out" / "alpha-1"), state(tuned))


@pytest.mark.parametrize("alpha", [0.3, 0.5])
def test_between_it_is_the_formula_in_float32(base: Path, tuned: Path, tmp_path: Path, alpha: float) -> None:
    merge(tmp_path / "out", str(tuned), str(base), alpha)
    first, second, found = state(base), state(tuned), state(tmp_path / "out")
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, (1 - alpha) * first[name] + alpha * second[name], rtol=1e-6, atol=1e-9)


def deep(folder: Path, seed: int, num_layers: int = 4, **fields: Any) -> Path:
    """A model of several layers whose head is not its embedding."""
    torch.manual_seed(seed)
    architecture = {**ARCHITECTURES["qwen3"], "num_hidden_layers": num_layers, "tie_word_embeddings": False, **fields}
    load_model(None, None, architecture, 300, None).save_pretrained(folder, max_shard_size="10KB")
    save_tokenizer(folder)
    return folder


def naive_lines(first: dict[str, Tensor], second: dict[str, Tensor], alpha: float, num_layers: int) -> dict[str, Tensor]:
    """As the authors' code scales the update of one task, by the first layer whose number is in a tensor's name."""
    result = {}
    for name, value in second.items():
        layers = [layer for layer in range(num_layers) if f".{layer}." in name]
        scale = alpha + (1 - alpha) * layers[0] / (num_layers - 1) if layers else alpha
        result[name] = first[name] + scale * (value - first[name])
    return result


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_lines_scales_the_update_by_the_layer(tmp_path: Path, alpha: float) -> None:
    base, tuned = deep(tmp_path / "base", 1), deep(tmp_path / "tuned", 2)
    merge(tmp_path / "out", str(tuned), str(base), alpha, "lines")
    first, second, found = state(base), state(tuned), state(tmp_path / "out")
    for name, value in naive_lines(first, second, alpha, 4).items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-7)
    last = {name for name in found if ".3." in name}
    assert len(last) > 5 and same_bits({name: found[name] for name in last}, {name: second[name] for name in last}), "the last layer is the tuned one's"
    untouched = {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"}
    for name in untouched if alpha == 0 else ():
        assert torch.equal(found[name], first[name]), "what is in no layer follows the first layer"
    if alpha == 1:
        assert same_bits(found, second)


def test_lines_with_a_tied_head_and_several_tuned_models(base: Path, tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    third = model(tmp_path / "third", 3)
    words = ["merge", "--tuned", json.dumps([str(tuned), str(third)]), "--base", str(base), "--alpha", "[0.2,0.6]", "--method", "lines"]
    main([*words, "--out", str(tmp_path / "out")])
    assert f"alpha-0.2: 0.1..0.5 x {tuned} + 0.1..0.5 x {third} + 0.8..0 x {base}" in capsys.readouterr().out
    parts = state(base), state(tuned), state(third)
    mean = {name: (parts[1][name] + parts[2][name]) / 2 for name in parts[1]}
    for alpha in (0.2, 0.6):
        found = state(tmp_path / "out" / f"alpha-{alpha}")
        assert "lm_head.weight" not in found
        for name, value in naive_lines(parts[0], mean, alpha, 2).items():
            torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-7)
    command = (tmp_path / "out" / "alpha-0.2" / "README.md").read_text().split("```\n")[-2].split()
    assert command[:2] == ["lit-talr", "merge"] and command[command.index("--method") + 1] == "lines"


def test_lines_and_linear_are_other_weights(base: Path, tuned: Path, tmp_path: Path) -> None:
    for method in ("linear", "lines"):
        merge(tmp_path / method, str(tuned), str(base), 0.3, method)
    assert len({folder_weights(tmp_path / method).origin for method in ("linear", "lines")}) == 2
    with pytest.raises(ValueError, match="lines is there already"):
        merge(tmp_path / "lines", str(tuned), str(base), 0.3)


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_lines_finds_the_layers_of_every_family(tmp_path: Path, family: str) -> None:
    folders = [model(tmp_path / str(seed), seed, family) for seed in (1, 2)]
    merge(tmp_path / "out", str(folders[1]), str(folders[0]), 0.0, "lines")
    first, second, found = state(folders[0]), state(folders[1]), state(tmp_path / "out")
    for name, value in found.items():
        assert torch.equal(value, (second if ".layers.1." in name and "vision" not in name else first)[name]), name


def test_lines_refuses_one_layer(tmp_path: Path) -> None:
    folders = [str(deep(tmp_path / str(seed), seed, num_layers=1)) for seed in (1, 2)]
    with pytest.raises(ValueError, match="`method: lines` needs one stack of at least two numbered layers, and .*2 has 1 layer.s. in `model.layers"):
        merge(tmp_path / "out", folders[1], folders[0], 0.5, "lines")
    assert not (tmp_path / "out").exists()


def test_it_is_a_model_with_the_tuned_ones_files_tokenizer_dtype_and_card(base: Path, tmp_path: Path) -> None:
    tuned = model(tmp_path / "tuned", 2, dtype=torch.bfloat16, shard_size="15KB")
    (tuned / "README.md").write_text(CARD)
    merge(tmp_path / "out", str(tuned), str(base))
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} == {MANIFEST, *(path.name for path in tuned.iterdir())}
    assert len(list(out.glob("*.safetensors"))) > 1
    index, wanted = (json.loads((folder / "model.safetensors.index.json").read_text()) for folder in (out, tuned))
    assert index["weight_map"] == wanted["weight_map"] and index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in state(out).values())
    loaded = AutoModelForCausalLM.from_pretrained(out)
    assert loaded.dtype == torch.bfloat16
    expected = (state(base)["model.norm.weight"] / 2 + state(tuned)["model.norm.weight"].float() / 2).bfloat16()
    assert torch.equal(loaded.model.norm.weight, expected)
    assert AutoTokenizer.from_pretrained(out).chat_template
    card = (out / "README.md").read_text()
    assert "library_name: transformers" in card and "Text." in card and "lit-talr fit" in card
    assert "test/score" not in card and f"0.5 x {tuned} + 0.5 x {base}" in card and "lit-talr merge --tuned" in card
    merge(tmp_path / "again", str(out), str(base))
    assert (tmp_path / "again" / "README.md").read_text().count("## Merge") == 1


def test_several_are_averaged(base: Path, tuned: Path, tmp_path: Path) -> None:
    third = model(tmp_path / "third", 3)
    merge(tmp_path / "mean", [str(third), str(base), str(tuned)])
    merge(tmp_path / "wise", [str(third), str(tuned)], str(base), 0.4)
    states = [state(folder) for folder in (third, tuned, base)]
    for name, tensor in state(tmp_path / "mean").items():
        torch.testing.assert_close(tensor, sum(part[name] for part in states) / 3, rtol=1e-5, atol=1e-8)
    for name, tensor in state(tmp_path / "wise").items():
        torch.testing.assert_close(tensor, 0.2 * states[0][name] + 0.2 * states[1][name] + 0.6 * states[2][name], rtol=1e-5, atol=1e-8)


def test_of_a_tied_head_a_copy_in_one_file_is_left_out(tuned: Path, tmp_path: Path) -> None:
    other = model(tmp_path / "other", 3)
    weights = load_file(other / "model.safetensors")
    save_file({**weights, "lm_head.weight": weights["model.embed_tokens.weight"].clone()}, other / "model.safetensors", metadata={"format": "pt"})
    merge(tmp_path / "first", str(tuned), str(other))
    merge(tmp_path / "second", str(other), str(tuned))
    assert state(tmp_path / "first").keys() == state(tmp_path / "second").keys() == state(tuned).keys()
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "second").lm_head.weight.shape == (300, 16)


def test_of_a_family_whose_head_is_tied_unless_said_too(tmp_path: Path) -> None:
    """Published Gemma configurations do not say it."""
    base, tuned = (model(tmp_path / name, seed, "gemma2") for seed, name in ((1, "base"), (2, "tuned")))
    config = json.loads((base / "config.json").read_text())
    del config["tie_word_embeddings"]
    (base / "config.json").write_text(json.dumps(config))
    weights = load_file(tuned / "model.safetensors")
    save_file({**weights, "lm_head.weight": weights["model.embed_tokens.weight"].clone()}, tuned / "model.safetensors", metadata={"format": "pt"})
    merge(tmp_path / "out", str(tuned), str(base))
    assert "lm_head.weight" not in state(tmp_path / "out")


def test_one_whole_file_goes_before_an_index_as_in_transformers(base: Path, tuned: Path, tmp_path: Path) -> None:
    """``save_pretrained`` over a sharded folder leaves the index there."""
    both = model(tmp_path / "both", 3)
    for path in base.glob("model*"):
        shutil.copy(path, both / path.name)
    assert (both / "model.safetensors.index.json").is_file()
    merge(tmp_path / "out", str(both), str(tuned), 1.0)
    loaded = AutoModelForCausalLM.from_pretrained(both)
    assert torch.equal(state(tmp_path / "out")["model.norm.weight"], loaded.model.norm.weight)
    assert torch.equal(state(tmp_path / "out")["model.embed_tokens.weight"], loaded.model.embed_tokens.weight)


@pytest.mark.parametrize("card", ["---\ntitle: a: b\n---\n\n# Odd\n", "---\n- a\n---\n\n# Odd\n", "# Odd\n", "\u00e9"])
def test_a_card_may_hold_anything(base: Path, tuned: Path, tmp_path: Path, card: str) -> None:
    (tuned / "README.md").write_bytes(card.encode("latin-1"))
    merge(tmp_path / "out", str(tuned), str(base))
    assert (tmp_path / "out" / "README.md").read_text().startswith(card.split("Odd")[0] if "Odd" in card else "\ufffd")


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_every_family(tmp_path: Path, family: str) -> None:
    folders = [str(model(tmp_path / str(seed), seed, family)) for seed in (1, 2)]
    merge(tmp_path / "out", *folders)
    AutoModelForCausalLM.from_pretrained(tmp_path / "out")


def another_shape(folder: Path) -> None:
    shutil.rmtree(folder)
    torch.manual_seed(0)
    load_model(None, None, {**ARCHITECTURES["qwen3"], "intermediate_size": 48}, 300, None).save_pretrained(folder)


def one_more(folder: Path) -> None:
    (file,) = sorted(folder.glob("*.safetensors"))[:1]
    save_file({**load_file(file), "extra.weight": torch.zeros(2)}, file)


def one_less(folder: Path) -> None:
    file = next(path for path in folder.glob("*.safetensors") if "model.norm.weight" in load_file(path))
    save_file({name: tensor for name, tensor in load_file(file).items() if name != "model.norm.weight"}, file)


def cut_short(folder: Path) -> None:
    file = sorted(folder.glob("*.safetensors"))[-1]
    file.write_bytes(file.read_bytes()[:-10])


def no_shard(folder: Path) -> None:
    sorted(folder.glob("*.safetensors"))[-1].unlink()


def no_weights(folder: Path) -> None:
    for file in folder.glob("model*"):
        file.unlink()


def only_an_adapter(folder: Path) -> None:
    no_weights(folder)
    (folder / "adapter_config.json").write_text("{}")


def an_adapter_beside(folder: Path) -> None:
    """Transformers would add it, and say nothing."""
    (folder / "adapter_config.json").write_text("{}")


def an_index_that_is_a_list(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text("[]")


def change(folder: Path, values: dict[str, torch.Tensor | None]) -> None:
    """Writes, replaces or (None) removes tensors of base and tuned alike."""
    for each in (folder, folder.parent / "tuned"):
        file = next(path for path in each.glob("*.safetensors") if "model.norm.weight" in load_file(path))
        save_file({name: value for name, value in {**load_file(file), **values}.items() if value is not None}, file, metadata={"format": "pt"})


def quantised(folder: Path) -> None:
    for each in (folder, folder.parent / "tuned"):
        file = next(path for path in each.glob("*.safetensors") if "model.norm.weight" in load_file(path))
        weights = load_file(file)
        save_file({**weights, "model.norm.weight": weights["model.norm.weight"].to(torch.float8_e4m3fn)}, file, metadata={"format": "pt"})


def a_shard_elsewhere(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    index.write_text(index.read_text().replace('"model-00001', '"../tuned/model-00001'))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (another_shape, r"mlp.down_proj.weight` is \[16, 32\] in .*tuned but \[16, 48\] in .*base"),
        (one_more, "tuned has no tensor `extra.weight`, which .*base has"),
        (one_less, "base has no tensor `model.norm.weight`, which .*tuned has"),
        (cut_short, "base/model-.*safetensors is not a whole safetensors file"),
        (no_shard, "index.json names model-.*safetensors, which is not there"),
        (no_weights, "base has no model.safetensors and no index of such files; convert it"),
        (only_an_adapter, "base holds an adapter .adapter_config.json.; give a model with its update merged in"),
        (an_adapter_beside, "base holds an adapter .adapter_config.json.; give a model with its update merged in"),
        (an_index_that_is_a_list, "index.json is not an index of safetensors files; fetch or write"),
        (quantised, "`model.norm.weight` holds torch.float8_e4m3fn in .*tuned, quantised weights, which cannot be added"),
        (lambda folder: change(folder, {"model.norm.weight": None}), "tuned: the weights have no `model.norm.weight`, which config.json asks for; "),
        (lambda folder: change(folder, {"foo.bar": torch.ones(1)}), "tuned: the weights have `foo.bar`, for which config.json has no place; "),
        (lambda folder: change(folder, {"model.norm.weight": torch.full((16,), torch.nan)}), "`model.norm.weight` holds values that are not finite in "),
        (a_shard_elsewhere, "names ../tuned/model-00001.*, which is not there"),
        (lambda folder: (folder / "config.json").unlink(), "base is not a folder with a config.json"),
    ],
)
def test_what_does_not_fit_is_refused_by_name_and_nothing_written(base: Path, tuned: Path, tmp_path: Path, harm: Callable[[Path], Any], message: str) -> None:
    harm(base)
    with pytest.raises(ValueError, match=message):
        merge(tmp_path / "out", str(tuned), str(base))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "tuned"]


def test_whole_numbers_that_differ_are_refused_and_nothing_is_left(base: Path, tuned: Path, tmp_path: Path) -> None:
    for folder, value in ((base, 1), (tuned, 2)):
        file = next(path for path in folder.glob("*.safetensors") if "model.norm.weight" in load_file(path))
        save_file({**load_file(file), IGNORED: torch.tensor([value])}, file)
    with pytest.raises(ValueError, match=f"`{IGNORED}` holds torch.int64 that differ"):
        merge(tmp_path / "out", str(tuned), str(base))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "tuned"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": 1.5}, r"`alpha` must lie in \[0, 1\], or be a list of different such numbers, got 1.5"),
        ({"alpha": float("nan")}, "got nan"),
        ({"alpha": [0.1, 0.1]}, r"got \[0.1, 0.1\]"),
        ({"alpha": []}, r"got \[\]"),
        ({"base": None}, "`merge` needs `--base` to interpolate with, or at least two"),
        ({"base": None, "alpha": 0.5}, "`merge` needs `--base`"),
        ({"base": None, "tuned": ["a", "b"], "method": "lines"}, "`merge` needs `--base`"),
        ({"method": "line"}, "`method` must be `linear` or `lines`, got 'line'"),
        ({"tuned": []}, "`tuned` must name at least one model"),
    ],
)
def test_refusals(base: Path, tuned: Path, tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        merge(**{"out": tmp_path / "out", "tuned": str(tuned), "base": str(base), **arguments})


def test_a_used_folder_is_refused_before_anything_is_written(base: Path, tuned: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / "alpha-0.7").mkdir(parents=True)
    (tmp_path / "out" / "alpha-0.7" / "mine").write_text("")
    with pytest.raises(ValueError, match="alpha-0.7 is there already; name a new folder"):
        merge(tmp_path / "out", str(tuned), str(base), [0.2, 0.7])
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["alpha-0.7"]


def test_the_same_line_makes_what_a_killed_merge_did_not(base: Path, tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    merge(tmp_path / "out", str(tuned), str(base), [0.2, 0.7])
    whole = {path.name: path.read_bytes() for path in (tmp_path / "out" / "alpha-0.7").iterdir()}
    shutil.rmtree(tmp_path / "out" / "alpha-0.7")
    merge(tmp_path / "out", str(tuned), str(base), [0.2, 0.7])
    assert "alpha-0.2: is there already, from the same models" in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in (tmp_path / "out" / "alpha-0.7").iterdir()} == whole
    with pytest.raises(ValueError, match="alpha-0.7 is there already; name a new folder"):
        merge(tmp_path / "out" / "alpha-0.7", str(tuned), str(base), 0.3)
    (tmp_path / "out" / "alpha-0.7" / "config.json").write_bytes(whole["config.json"][:-1])
    with pytest.raises(ValueError, match="alpha-0.7 is there already; name a new folder"):
        merge(tmp_path / "out", str(tuned), str(base), [0.7])


@pytest.mark.parametrize("known", [True, False])
def test_code_of_a_model_is_neither_run_nor_asked_about(
    base: Path, tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], known: bool
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))
    for folder in (base, tuned):
        config = json.loads((folder / "config.json").read_text())
        kind = config["model_type"] if known else "strange"
        (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\nclass Config: ...\n")
        (folder / "config.json").write_text(json.dumps({**config, "model_type": kind, "auto_map": {"AutoConfig": "own.Config"}}))
    with nullcontext() if known else pytest.raises(SystemExit):
        main(["merge", "--tuned", str(tuned), "--base", str(base), "--out", str(tmp_path / "out")])
    said = capsys.readouterr()
    assert "[y/N]" not in said.out + said.err and not (tmp_path / "ran").exists() and (tmp_path / "out").exists() == known
    assert known or "needs Python code of its own (`auto_map` in its JSON files), which is never run; give one of a kind built into" in said.err


def test_a_full_disk_leaves_nothing_and_is_named(base: Path, tuned: Path, tmp_path: Path) -> None:
    with (
        small_files(9_000),
        pytest.raises(OSError, match=r"out could not be written \(File too large: model-.*safetensors\) and is as it was before; make room"),
    ):
        merge(tmp_path / "out", str(tuned), str(base))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "tuned"]


def test_generation_settings_that_nobody_could_save_are_left_out_with_a_remark(
    base: Path, tuned: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tuned / "generation_config.json").write_text('{"do_sample": false, "temperature": 0.6, "eos_token_id": 7}')  # as Vicuna has it
    remark.cache_clear()
    with caplog.at_level(logging.WARNING, "lit_talr"):
        merge(tmp_path / "out", str(tuned), str(base))
    (said,) = [record.getMessage() for record in caplog.records if record.name.startswith("lit_talr")]
    assert said.startswith(f"{tuned / 'generation_config.json'}: `temperature: 0.6` is invalid or contradicts another setting, and is passed over")
    settings = GenerationConfig.from_pretrained(tmp_path / "out")
    settings.validate(strict=True)
    assert settings.eos_token_id == 7


def test_on_the_command_line(base: Path, tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["merge", "--base", str(base), "--tuned", str(tuned)]
    main([*words, "--alpha", "0.3", "--out", str(tmp_path / "C")])
    main([*words, "--alpha", "[0.1,0.9]", "--out", str(tmp_path / "several")])
    main(["merge", "--tuned", json.dumps([str(base), str(tuned)]), "--out", str(tmp_path / "mean")])
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"{tmp_path / 'C'}: 0.3 x {tuned} + 0.7 x {base}, 24 tensors in {len(list(tuned.glob('*.safetensors')))} file(s)"
    assert [path.name for path in sorted((tmp_path / "several").iterdir())] == ["alpha-0.1", "alpha-0.9"]
    with pytest.raises(SystemExit):
        main([*words, "--alpha", "0.3", "--alpha=0.6", "--out", str(tmp_path / "D")])
    assert "`--alpha` is given 2 times; give several values as one list, such as --alpha [a,b]." in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        main([*words, "--alpha", "much", "--out", str(tmp_path / "D")])
    error = capsys.readouterr().err
    assert stop.value.code == 1 and error.count("\n") == 1 and "`alpha` must be" in error


def test_a_run_has_its_model_in_its_export(base: Path, tuned: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    tuned.rename(tmp_path / "run" / "export")
    with pytest.raises(ValueError, match="run is not a folder with a config.json; did you mean .*run/export?"):
        merge(tmp_path / "out", str(tmp_path / "run"), str(base))
