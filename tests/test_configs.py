"""Every shipped YAML composes and trains a step, through the command line that users call."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import PeftModel
from safetensors.torch import load_file

from lit_talr.cli.command_line import main
from lit_talr.cli.fit_parser import fit_parser
from lit_talr.lab.skill_items import SKILLS
from lit_talr.modeling.loading import load_model
from lit_talr.utils.files import read_json_lines
from lit_talr.utils.manifest import MANIFEST
from tests.helpers.esci_rows import write_esci
from tests.helpers.fits import write_data
from tests.helpers.math_rows import write_gsm8k, write_metamath
from tests.helpers.medcalc_rows import write_medcalc
from tests.helpers.models import ARCHITECTURES
from tests.helpers.params import first_is_fast
from tests.helpers.scores import read_values
from tests.helpers.tiny import save_tokenizer

CONFIGS = Path(__file__).parents[1] / "configs"
TOKENIZERS = {"qwen2": "qwen2", "qwen3": "qwen3", "llama": "llama3", "gemma2": "gemma2", "gemma3": "gemma3"}
FAMILY_OF = {"qwen2.5-3b": "qwen2", "qwen2.5-7b": "qwen2", "qwen3-0.6b": "qwen3", "qwen3-4b": "qwen3", "gemma3-1b": "gemma3", "gemma3-4b": "gemma3"}
FAMILY_OF |= dict.fromkeys(("llama3.2-1b", "smollm2-135m", "smollm2-360m"), "llama")
EXPERIMENTS = sorted(path.stem for domain in ("medcalc", "esci", "metamath", "gsm8k") for path in (CONFIGS / "experiment").glob(f"{domain}_*.yaml"))
YARDSTICK = ("peft_gsm8k", "peft_metamath_full", "peft_metamath_lora")
ON_GPU = ("ddp", "fsdp2", "zero1", "zero2", "zero3", "zero3-offload")
ON_CPU = tuple(f"{name}-cpu" for name in ON_GPU)  # in tests/distributed


def names(folder: str) -> list[str]:
    return sorted(path.stem for path in (CONFIGS / folder).glob("*.yaml"))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A Hugging Face folder of each family, tokenizer included."""
    folders = {}
    for family, architecture in ARCHITECTURES.items():
        folders[family] = folder = tmp_path_factory.mktemp(family)
        save_tokenizer(folder, TOKENIZERS[family])
        torch.manual_seed(0)
        load_model(None, None, architecture, 300, None).save_pretrained(folder)
    return folders


@pytest.fixture(scope="module")
def medcalc(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return write_medcalc(tmp_path_factory.mktemp("medcalc"))


@pytest.fixture(scope="module")
def own_rows(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("rows")
    write_data(folder)
    return [word for split in ("train", "val", "test") for word in (f"--data.{split}", str(folder / f"{split}.jsonl"))]


@pytest.fixture(scope="module")
def domains(own_rows: list[str], medcalc: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The options that give a domain its rows."""
    held_out = ["--data.validation", "0.3"]
    long_enough = ["--data.encoding.max_length", "4096", "--data.batching.micro_batch_tokens", "8192"]
    return {
        "clinic": ["--data.train_size", "24", "--data.val_size", "4", *long_enough],
        "clinic_replay": ["--data.train_size", "24", "--data.replay.general.init_args.train_size", "24", *long_enough],
        "esci": [*write_esci(tmp_path_factory.mktemp("esci")), *held_out],
        "gsm8k": [*write_gsm8k(tmp_path_factory.mktemp("gsm8k")), *held_out],
        "medcalc": [*medcalc, *held_out],
        "metamath": [*write_metamath(tmp_path_factory.mktemp("metamath")), *held_out],
        "records": own_rows,
    }


def one_step(run: Path, *words: str) -> Path:
    """Fit one step on a CPU, and look at what it leaves."""
    main(
        [
            "fit",
            *words,
            *("--run", str(run), "--trainer.accelerator", "cpu", "--trainer.devices", "1", "--trainer.precision", "32-true"),
            *("--trainer.max_steps", "1", "--data.batching.batch_size", "4"),
        ]
    )
    assert (run / "metrics.json").is_file() and (run / "checkpoints" / "last-step=1.ckpt").exists()
    return run


def first_and_another(names: list[str], fast: Callable[[str], bool] = lambda name: True) -> list[Any]:
    """Each file with the first family and, slow, with one other, in turn: that each family trains at all is `test_every_family_trains_and_exports`."""
    others = [family for family in ARCHITECTURES if family not in ("qwen2", "gemma2")]  # gemma2's template has no system turn
    pairs = [(name, "qwen2", fast(name)) for name in names] + [(name, others[index % len(others)], False) for index, name in enumerate(names)]
    return [pytest.param(name, family, marks=[] if is_fast else pytest.mark.slow, id=f"{name}-{family}") for name, family, is_fast in pairs]


def figures(shown: bool) -> list[str]:
    """TensorBoard's are the same for all files and families, and take as long as all else: one of each kind shows them."""
    return [] if shown else ["--trainer.logger", "false"]


def configs(*paths: str) -> list[str]:
    return [word for path in paths for word in ("-c", f"configs/{path}.yaml")]


@pytest.mark.parametrize("family", first_is_fast(*ARCHITECTURES))
def test_every_family_trains_and_exports(models: dict[str, Path], own_rows: list[str], tmp_path: Path, family: str) -> None:
    words = [*configs("base", "data/records", "loss/talr"), "--model.pretrained", str(models[family]), *own_rows]
    run = one_step(tmp_path / "run", *words, "--model.optimizer.lr", "1e-3", *figures(family == "qwen2"))
    before, after = load_file(models[family] / "model.safetensors"), load_file(run / "export" / "model.safetensors")
    assert before.keys() == after.keys()
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    assert moved == {name for name in after if "vision" not in name and "projector" not in name}
    reloaded = load_model(str(run / "export"), None, None, 0, None)
    assert reloaded.config.model_type == ARCHITECTURES[family]["model_type"]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in FAMILY_OF else name for name in names("model")]
)  # all on one small model
def test_models(models: dict[str, Path], own_rows: list[str], tmp_path: Path, name: str) -> None:
    family = FAMILY_OF.get(name)
    option = ["--model.pretrained", str(models[family])] if family else ["--model.tokenizer", str(models["qwen2"])] if name != "clinic" else []
    one_step(tmp_path / "run", *configs("base", f"model/{name}", "data/records", "loss/standard"), *option, *own_rows, *figures(name == "small"))


@pytest.mark.parametrize("target", first_is_fast("cot", "label"))
def test_the_domain_made_by_code_trains_and_tests_without_any_file(tmp_path: Path, target: str) -> None:
    sizes = ["--data.target", target, "--data.train_size", "24", "--data.val_size", "4", "--data.test_size", "12", "--model.generation.max_new_tokens", "8"]
    run = one_step(tmp_path / "run", *configs("base", "model/clinic", "data/clinic", "loss/standard"), *sizes)
    main(["test", "-c", str(run / "config.yaml"), "--ckpt_path", "last"])
    assert read_values(run, "test")["test/num_examples"] == 12


@pytest.mark.slow
def test_the_embedded_base_is_remade_from_its_file_alone(tmp_path: Path) -> None:
    assert {"lab_base", "lab_clinic", "lab_noise", "lab_talr", "real_esci", "real_medcalc", *YARDSTICK, *EXPERIMENTS} == set(names("experiment"))
    run, small = tmp_path / "run", ["--data.train_size", "24", "--data.val_size", "4", "--trainer.max_steps", "1"]
    main(["fit", *configs("experiment/lab_base"), *small, "--run", str(run)])
    made, shipped = ({path.name for path in folder.iterdir()} for folder in (run / "export", CONFIGS.parent / "lit_talr" / "lab" / "base"))
    assert made == shipped | {MANIFEST}


@pytest.mark.slow
def test_the_noisy_experiment_differs_from_the_clean_one_by_its_noise_alone(tmp_path: Path) -> None:
    noisy, clean = (yaml.safe_load((CONFIGS / "experiment" / f"{name}.yaml").read_text()) for name in ("lab_noise", "lab_clinic"))
    added = {"noise": 0.1, "noise_kind": "words", "noise_placement": "anywhere"}
    assert noisy == clean | {"run": "runs/lab_noise", "data": {**clean["data"], "init_args": clean["data"]["init_args"] | added}}
    callbacks = "[Summary, {class_path: WholeCheckpoint, init_args: {filename: 'last-{step}'}}]"
    sizes = ["--data.train_size", "24", "--data.val_size", "4", "--trainer.callbacks", callbacks]
    losses = [read_values(one_step(tmp_path / name, *configs(f"experiment/{name}"), *sizes), "fit")["train/nll"] for name in ("lab_noise", "lab_clinic")]
    assert losses[0] > losses[1] + 0.5


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name for name in names("eval") if name not in ("lm_eval", "drift", "diagnose")]
)  # which tests/callbacks and tests/diagnose run
def test_general_suites_are_asked(tmp_path: Path, name: str) -> None:
    sizes = ["--data.train_size", "8", "--data.val_size", "4", "--data.test_size", "4"]
    run = one_step(tmp_path / "run", *configs("base", "model/lab", "data/clinic", "loss/standard", f"eval/{name}"), *sizes, "--model.optimizer.lr", "1e-5")
    if name == "wordings":  # which asks in test alone
        main(["test", "-c", str(run / "config.yaml"), "--ckpt_path", "last"])
    found = read_values(run, "test" if name == "wordings" else "fit")
    assert found["general/mean"] > 0.88
    assert ("general/clinic/spread" in found) == (name == "wordings"), sorted(found)


@pytest.mark.slow
def test_the_lab_keeps_what_the_base_can_do_at_a_tiny_rate(tmp_path: Path) -> None:
    """And the base has its numbers: general abilities of .90 at least, and next to nothing of the domain."""
    sizes = ["--data.train_size", "8", "--data.val_size", "4", "--data.test_size", "96"]
    run = one_step(tmp_path / "run", *configs("experiment/lab_clinic", "loss/talr"), *sizes, "--model.optimizer.lr", "1e-6")
    main(["test", "-c", str(run / "config.yaml"), "--ckpt_path", "last"])
    found = read_values(run, "test")
    assert found["general/mean"] >= 0.9 and abs(found["general/drop"]) < 0.01 and found["test/score"] <= 0.1
    suites = [next(part["init_args"] for part in config["trainer"][key] if part["class_path"] == "GeneralScore")["suites"] for config, key in lab_files()]
    assert suites[0].keys() == suites[1].keys() == set(SKILLS) and all(f"general/{name}" in found for name in SKILLS)


def lab_files() -> list[tuple[dict[str, Any], str]]:
    read = [yaml.safe_load((CONFIGS / f"{name}.yaml").read_text()) for name in ("experiment/lab_clinic", "eval/skills")]
    return list(zip(read, ("callbacks", "callbacks+"), strict=True))


QUICK = ("talr", "truncation")  # a file of each kind; tests/losses has all losses


@pytest.mark.parametrize(("name", "family"), first_and_another(names("loss"), QUICK.__contains__))
def test_losses_and_data(models: dict[str, Path], domains: dict[str, list[str]], tmp_path: Path, name: str, family: str) -> None:
    """Each loss on two of the data sets, each data set with four losses."""
    index = names("loss").index(name) + 4 * (family != "qwen2")
    data = names("data")[index % len(names("data"))]
    family = "gemma2" if data == "records" and family != "qwen2" else family
    known = ["--model.loss.max_perplexity", "1e6"] if name == "stm" else []  # random weights expect nothing, and all would be masked
    words = [*configs("base", f"data/{data}", f"loss/{name}"), "--model.pretrained", str(models[family]), *domains[data.partition("-")[0]], *known]
    one_step(tmp_path / "run", *words, *figures(name == "talr" and family == "qwen2"))


@pytest.mark.parametrize("family", [family if family == "qwen2" else pytest.param(family, marks=pytest.mark.slow) for family in ARCHITECTURES])
def test_lora_trains_and_exports_a_model_and_an_adapter(models: dict[str, Path], own_rows: list[str], tmp_path: Path, family: str) -> None:
    words = [*configs("base", "data/records", "loss/talr", "adapter/lora"), "--model.pretrained", str(models[family]), *own_rows]
    run = one_step(tmp_path / "run", *words, "--model.adapter.r", "2", "--model.optimizer.lr", "1e-2", *figures(family == "qwen2"))
    assert "LoRA(r=2, alpha=64" in (run / "export" / "README.md").read_text()
    before, after = load_file(models[family] / "model.safetensors"), load_file(run / "export" / "model.safetensors")
    assert before.keys() == after.keys()
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    assert moved == {name for name in after if "_proj.weight" in name and "vision" not in name and "projector" not in name}
    base = load_model(str(models[family]), None, None, 0, None)
    adapted = PeftModel.from_pretrained(base, str(run / "adapter"))
    merged = adapted.merge_and_unload().state_dict()
    reloaded = load_model(str(run / "export"), None, None, 0, None).state_dict()
    for name, weight in reloaded.items():
        torch.testing.assert_close(weight, merged[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in names("adapter") if name != "lora"])
def test_every_other_adapter_is_read(name: str) -> None:
    options = fit_parser()(configs("base", "model/tiny", "data/records", "loss/standard", f"adapter/{name}") + ["--model.tokenizer", "t"])
    assert options.model.adapter.class_path.startswith("lit_talr.")


@pytest.mark.slow
def test_finch_takes_the_place_of_the_schedule(own_rows: list[str], models: dict[str, Path], tmp_path: Path) -> None:
    words = [*configs("base", "data/records", "loss/talr", "finch"), "--model.pretrained", str(models["qwen2"]), *own_rows, *figures(False)]
    values = read_values(one_step(tmp_path / "run", *words, "--model.optimizer.lr", "2e-5"), "fit")
    assert values["train/learning_rate"] == pytest.approx(2e-5 * values["train/nll"] ** -0.5, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("percent", [1, pytest.param(10, marks=pytest.mark.slow)])
def test_own_samples_are_mixed_into_the_domain_before_them(own_rows: list[str], models: dict[str, Path], tmp_path: Path, percent: int) -> None:
    words = [*configs("base", "data/records", f"own_samples_{percent}"), "--model.pretrained", str(models["qwen2"]), *own_rows, *figures(False)]
    options = ("--data.replay.general.init_args.num_samples", "32", "--data.replay.general.init_args.response_tokens", "96")
    run = one_step(tmp_path / "run", *words, *options, "--model.loss", "Standard", "--data.replay.general.init_args.prompt_tokens", "96")
    rows = read_json_lines(run / "own_samples.jsonl")
    assert len(rows) == 32 and any(row["left_out"] is None for row in rows)
    data = yaml.safe_load((run / "config.yaml").read_text())["data"]
    assert data["class_path"].endswith("Records") and data["init_args"]["replay"]["share"] == percent / 100


@pytest.mark.slow
def test_mofo_takes_the_place_of_the_optimizer(own_rows: list[str], models: dict[str, Path], tmp_path: Path) -> None:
    words = [*configs("base", "data/records", "loss/talr", "mofo"), "--model.pretrained", str(models["qwen2"]), *own_rows, *figures(False)]
    run = one_step(tmp_path / "run", *words, "--model.optimizer.lr", "1e-2")
    before, after = load_file(models["qwen2"] / "model.safetensors"), load_file(run / "export" / "model.safetensors")
    moved = {name: float((after[name] != before[name]).double().mean()) for name in before if "_proj.weight" in name}
    assert all(0 < share < 0.16 for share in moved.values())


@pytest.mark.slow
def test_half_fine_tuning_takes_the_place_of_the_optimizer(own_rows: list[str], models: dict[str, Path], tmp_path: Path) -> None:
    words = [*configs("base", "data/records", "loss/talr", "hft"), "--model.pretrained", str(models["qwen2"]), *own_rows, *figures(False)]
    run = one_step(tmp_path / "run", *words, "--model.optimizer.lr", "1e-2")
    before, after = load_file(models["qwen2"] / "model.safetensors"), load_file(run / "export" / "model.safetensors")
    moved = [not torch.equal(after[name], before[name]) for name in before if "self_attn" in name and name.endswith("weight")]
    assert 2 * sum(moved) == len(moved) > 0


@pytest.mark.slow
def test_a_template_without_a_system_turn_takes_a_prompt_file_without_one(models: dict[str, Path], medcalc: list[str], tmp_path: Path) -> None:
    (tmp_path / "prompt.yaml").write_text("user: '{note} {question}'")
    words = [*configs("base", "data/medcalc", "loss/standard"), "--model.pretrained", str(models["gemma2"]), *medcalc, "--data.validation", "0.3"]
    with pytest.raises(SystemExit):
        one_step(tmp_path / "refused", *words)
    one_step(tmp_path / "run", *words, "--data.prompt_file", str(tmp_path / "prompt.yaml"))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "family"), first_and_another(EXPERIMENTS, lambda name: name == "medcalc_cot_5e-6"))  # they are alike
def test_experiments_run_on_their_own(models: dict[str, Path], domains: dict[str, list[str]], tmp_path: Path, name: str, family: str) -> None:
    words = [*configs(f"experiment/{name}"), "--model.pretrained", str(models[family]), *domains[name.partition("_")[0]]]
    one_step(tmp_path / "run", *words, *figures(name == "medcalc_cot_5e-6" and family == "qwen2"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["full", "lora"])
def test_the_yardstick_trains_on_one_data_set_and_is_tested_on_another(
    models: dict[str, Path], domains: dict[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "finewiki_100.txt").write_text("A text that is about nothing in particular. " * 4)
    drift = {"class_path": "Drift", "init_args": {"length": 16, "num_sequences": 2, "corpora": ["data/finewiki_100.txt"]}}
    small = {"trainer": {"callbacks": ["Summary", drift, {"class_path": "WholeCheckpoint", "init_args": {"filename": "last-{step}"}}], "logger": False}}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(small))
    words = [*configs(f"experiment/peft_metamath_{name}"), "-c", "small.yaml", "--model.pretrained", str(models["llama"])]
    run = one_step(tmp_path / "run", *words, *domains["metamath"])
    assert read_values(run, "fit")["drift/nll_rise/finewiki_100"] != 0
    rows = domains["gsm8k"][:-2]  # without the share for validation, which a test does not read
    main(["test", "-c", str(run / "config.yaml"), *configs("experiment/peft_gsm8k"), *rows, "--model.generation.max_new_tokens", "4", "--ckpt_path", "last"])
    assert {"test/score", "drift/nll/finewiki_100"} <= read_values(run, "test").keys()


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiments_are_what_their_parts_compose_to(name: str) -> None:
    """A complete file repeats its parts; this keeps them the same."""
    domain, target, rate = name.split("_")
    expected: dict[str, Any] = {}
    for part in ("base", "model/qwen2.5-3b", f"data/{domain}", "loss/talr"):
        merge(expected, yaml.safe_load((CONFIGS / f"{part}.yaml").read_text()))
    expected["run"] = f"runs/{name}"
    expected["data"]["init_args"]["target"] = target
    expected["model"]["optimizer"]["init_args"]["lr"] = float(rate)
    expected["model"]["generation"]["max_new_tokens"] = {"cot": 1024, "label": 64}[target]
    assert yaml.safe_load((CONFIGS / "experiment" / f"{name}.yaml").read_text()) == expected


def merge(into: dict[str, Any], other: dict[str, Any]) -> None:
    for key, value in other.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            merge(into[key], value)
        else:
            into[key] = value


@pytest.mark.parametrize("name", first_is_fast(*ON_GPU))
def test_gpu_strategies_compose(models: dict[str, Path], own_rows: list[str], capsys: pytest.CaptureFixture[str], name: str) -> None:
    words = [*configs("base", "data/records", "loss/talr", f"strategy/{name}"), "--model.pretrained", str(models["qwen2"]), *own_rows]
    with pytest.raises(SystemExit) as stop:
        main(["fit", *words, "--print_config"])
    assert stop.value.code == 0
    assert yaml.safe_load(capsys.readouterr().out)["trainer"]["accelerator"] == "gpu"


def test_every_strategy_is_tested_here_or_on_two_ranks() -> None:
    assert set(names("strategy")) == {*ON_GPU, *ON_CPU}
