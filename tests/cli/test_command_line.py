"""The command line as its users meet it: what it refuses, and in which words."""

import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_utilities.core.imports import RequirementCache
from transformers import AutoModelForCausalLM, AutoTokenizer

from lit_talr.cli.command_line import main
from lit_talr.cli.errors import explain
from lit_talr.cli.parsers import PACKAGE
from tests.helpers.fits import QWEN3, write_data
from tests.helpers.scores import read_values

BASE = ["-c", "configs/base.yaml", "-c", "configs/data/records.yaml", "-c", "configs/loss/talr.yaml"]


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """A command line that trains two steps."""
    write_data(tmp_path)
    files = [word for split in ("train", "val", "test") for word in (f"--data.{split}", str(tmp_path / f"{split}.jsonl"))]
    return [
        *BASE,
        *("--model.architecture", json.dumps(QWEN3), "--model.tokenizer", str(tmp_path / "tokenizer"), *files),
        *("--run", str(tmp_path / "run"), "--trainer.max_steps", "2", "--trainer.accelerator", "cpu", "--trainer.precision", "32-true"),
        *("--model.generation.max_new_tokens", "8"),
    ]


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one sentence on standard error; nothing else, and no exit code 0."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("lit-talr: ") and error.count("\n") == 1 and "Traceback" not in error, error
    return error


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (
            ["--model.loss", "TALRR"],
            "`model.loss`: there is no class TALRR; did you mean TALR? There are ASFT, DFT, EAFT, EWC, FLOW, GCE, IWSFT, InfoSFT, KL, L2, MaskTheTarget, "
            "Permuted, PriFT, Rho1, STM, Standard, TALR, Truncation.",
        ),
        (["--model.loss", "FLOW"], "FLOW compares with the base model, and random weights say nothing; give `model.pretrained`"),
        (["--model.loss", "FLOW", "--model.loss.level", "word"], "`model.loss.level` must be 'sample', 'token', got word."),
        (["-c", "configs/adapter/lora.yaml"], "`model.adapter` adapts frozen weights, and random ones are of no use; give `model.pretrained`"),
        (["--model.adapter", "LoRA", "--model.adapter.r", "0"], "`adapter.r` must be at least 1, got 0."),
        (["-c", "configs/adapter/lora.yaml", "-c", "configs/loss/l2.yaml"], "L2 pulls the weights back to the base model's, and an adapter's are others"),
        (["--model.loss", "IWSFT", "--model.loss.bounds", "0.2,1.8"], "`model.loss.bounds` must be a list of numbers, such as [0.2,1.8], got 0.2,1.8."),
        (
            ["--data", "MedCal"],
            "`data`: there is no class MedCal; did you mean MedCalc? There are Clinic, ESCI, GSM8K, MedCalc, MetaMathQA, ",
        ),
        (["--model.schedule", "Cosin"], "`model.schedule`: there is no class Cosin; did you mean Cosine? There are Constant, Cosine, FINCH, Linear."),
        (["--model.loss.temprature", "1"], "`model.loss`: Option 'temprature' is not accepted; did you mean temperature?"),
        (["--trainer.max_epoch", "1"], "unrecognized arguments: --trainer.max_epoch 1; did you mean --trainer.max_epochs?"),
        (["--model.optimizer.learning_rate", "1"], "`model.optimizer`: Option 'learning_rate' is not accepted; did you mean lr?"),
        (["--model.optimizer.lr", "-1e-3"], "`model.optimizer.lr` must be positive and finite, got -0.001; give a learning rate such as 1e-6."),
        (["--model.optimizer.lr", "inf"], "`model.optimizer.lr` must be a finite number, got inf."),
        (["--model.optimizer.lr", ".inf"], "`model.optimizer.lr` must be positive and finite, got inf"),
        (["--model.loss.tau", "1"], "`model.loss`: Option 'tau' is not accepted; there are temperature, floor, statistic, scope, normalize"),
        (["--model.zzzz", "1"], "unrecognized arguments: --model.zzzz 1; there are loss, optimizer, schedule, pretrained"),
        (["-model.optimizer.lr", "1"], "`-model.optimizer.lr`: options begin with two hyphens and have their whole name; write --model.optimizer.lr."),
        (["\u2014run=x"], "options begin with two hyphens and have their whole name; write --run=x."),
        (["--trainer.max_steps", "0"], "`trainer.max_steps` 0 trains nothing"),
        (["--trainer.gradient_clip_val", "-1"], "`trainer.gradient_clip_val` must be at least 0, got -1; 0 does not clip."),
        pytest.param(
            ["--trainer.accelerator", "cuda"],
            "`trainer.accelerator: cuda`, and no GPU is found here; on CPU ranks use -c configs/strategy/zero2-cpu.yaml",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="it has a GPU"),
        ),
        (["--trainer.limit_val_batches", "0"], "monitors `val/nll`, which nothing measures, since `trainer.limit_val_batches: 0` turns validation off"),
        (["--model.optimizer.weight_decay", "-1"], "`model.optimizer`: Invalid weight_decay value: -1.0; correct that option."),
        (["--model.loss", "my_losses.Power"], "`model.loss`: my_losses.Power cannot be imported (No module named 'my_losses'); put the folder of my_losses on"),
        (
            ["--model.optimizer", "bits_and_bites.optim.AdamW8bit"],
            "`model.optimizer`: bits_and_bites.optim.AdamW8bit cannot be imported (No module named 'bits_and_bites'); put the folder of bits_and_bites on "
            "PYTHONPATH if it is yours, or `pip install` it, or use torch.optim.AdamW.",
        ),
        (["--model.loss", "tests.cli.Power"], "`model.loss`: there is no class Power in tests.cli; there are ASFT"),
        (["--model.loss", "{class_path: TALR, floor: 0.1}"], "Option 'class_path' is not accepted; the options of a class stand under `init_args`"),
        (["--model.adapter", "{r: 8, r: 16}"], "`--model.adapter`: the key `r` stands in line 1 and again in line 1; join the two."),
        (["--trainer.logger", "CSVLogger"], "`trainer.logger` needs `save_dir`; give it, such as `--trainer.logger.save_dir VALUE`."),
        (
            ["--trainer.logger.project", "x"],
            "`trainer.logger` has no class yet that could take `project`; name one before it, such as --trainer.logger WandbLogger.",
        ),
        (
            ["--trainer.callbacks+", '[{"patience": 3}]'],
            "has no class yet that could take `patience`; name one beside it, such as {class_path: EarlyStopping, init_args: {patience: ...}}.",
        ),
        (
            ["--trainer.logger", '[{"class_path": "CSVLogger", "init_args": {"save": "x"}}]'],
            "`trainer.logger`: Option 'save' is not accepted; did you mean save_dir?",
        ),
        (["--trainer.logger", "CSVLoger"], "`trainer.logger`: there is no class CSVLoger; did you mean CSVLogger? There are"),
        (["--trainer.strategy", "zero2"], "zero2 is not a strategy of Lightning; give the file of one, such as -c configs/strategy/zero2.yaml."),
        (["--trainer.max_epochs"], "`--trainer.max_epochs` stands without a value; write one after it."),
        (["configs/base.yaml"], "unrecognized arguments: configs/base.yaml; write -c before a configuration file: -c configs/base.yaml"),
        (
            ["--trainer.callbacks+=LearningRateFinder"],
            "`LearningRateFinder` is not supported: a rate is judged here by what it learns and what it forgets",
        ),
        (
            ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val/loss"],
            "`EarlyStopping` monitors `val/loss`, which this run does not log; did you mean `val/nll`? It logs val/nll, val/perplexity",
        ),
        (["--ckpt_path", "best"], "`ckpt_path: best` is not for `fit`, which takes `auto` (start, or continue from the newest whole checkpoint)"),
        (["--model.loss.temperature", "0"], "`temperature` must be above 0, got 0"),
        (["--data.tokenizer", "x"], "`--data.tokenizer` is not an option of its own: the tokenizer is the model's"),
        (["--trainer.default_root_dir", "x"], "it is the folder of the run, `--run`"),
        (["-c", "configs/loss/nope.yaml"], "configs/loss/nope.yaml: no such configuration"),
        (["--data.batching.batch_size", "0"], "`batching.batch_size` must be at least 1, got 0"),
        (["--data.train", "nowhere.jsonl"], "nowhere.jsonl: no such file of rows"),
        (["--data.encoding.max_length", "5"], "train.jsonl: row 1: "),
        (["--trainer.accumulate_grad_batches", "3"], "`trainer.accumulate_grad_batches` is 3"),
        (["--trainer.overfit_batches", "1"], "`trainer.overfit_batches` is not supported"),
        (["--trainer.limit_train_batches", "0.5"], "`trainer.limit_train_batches` 0.5 is not supported"),
        (["--trainer.limit_train_batches", "1"], "`trainer.limit_train_batches` 1 is not supported"),
        (["--trainer.fast_dev_run", "true"], "`trainer.fast_dev_run` is not supported, since it cuts optimizer steps"),
        (["--trainer.strategy", "deepspeed_stage_2"], "DeepSpeed needs GPUs; on CPU ranks use configs/strategy/zero2-cpu.yaml"),
        (["--trainer.strategy", "deepspeed_stage_3"], "DeepSpeed needs GPUs; on CPU ranks use configs/strategy/zero3-cpu.yaml"),
        (["--trainer.strategy", "ddp_spawn"], "use `ddp`"),
        (["--trainer.precision", "16-true"], "`trainer.precision: 16-true` keeps the weights in fp16"),
        (["--trainer.precision", "bf17"], "`trainer.precision` must be "),
        (["--data.batching.batch_size", "2.5"], "`data.batching.batch_size` must be a whole number, got 2.5."),
        (["--data.encoding.too_long", "cut"], "`data.encoding.too_long` must be 'error', 'drop', 'truncate_prompt', got cut."),
        (["--trainer.max_epochs", "abc"], "`trainer.max_epochs` must be a whole number, got abc."),
        (["--model.optimizer.lr", "fast"], "`model.optimizer.lr` must be a number, got fast."),
        (["--model.optimizer", "torch.optim.AdamWW"], "`model.optimizer`: there is no class AdamWW; did you mean AdamW? There are ASGD, Adadelta"),
        (["--trainer.callbacks+=Foo"], "`trainer.callbacks`: there is no class Foo; there are "),
        (["--data.train", "tests"], "tests: is a folder that `save_to_disk` of `datasets` did not write; give a .jsonl"),
        (["--run", ""], "`run` must name a folder"),
        (["--trainer.precision", "bf16-true"], "`trainer.precision: bf16-true` keeps the weights in bf16"),
        (["--trainer.max_steps", "-1", "--trainer.max_epochs", "-1"], "Give `trainer.max_epochs` or `trainer.max_steps`"),
        (["--ckpt_path", "last"], "holds no checkpoint"),
        (["--ckpt_path", "nowhere.ckpt"], "nowhere.ckpt does not exist"),
        (["--model.pretrained", "./nowhere", "--model.architecture", "null"], "./nowhere is not a folder with a config.json"),
        (
            ["--model.pretrained", "runs/nope/export", "--model.architecture", "null"],
            "`model.pretrained`: runs/nope/export is not a folder with a config.json; ",
        ),
        (["--model.pretrained", "./lit_tlar/x", "--model.architecture", "null"], "./lit_tlar/x is not a folder with a config.json; did you mean lit_talr?"),
        (["--model.tokenizer", "runs/nope/export"], "`model.tokenizer`: runs/nope/export is not a folder; give a Hugging Face folder or a hub name."),
        (["--model.pretrained", "./nowhere"], "one of the two"),
        (["--model.tokenizer", "./nowhere"], "./nowhere"),
        (["--model.tokenizer", "configs"], "configs is a folder without a tokenizer (tokenizer_config.json)"),
        (["--model.tokenizer", "null"], "Give `model.pretrained` or `model.tokenizer`"),
        pytest.param(
            ["--model.compute.attention", "flash_attention_2"],
            "`model.compute.attention` is not installed here; install its package, or set another, such as sdpa",
            marks=pytest.mark.skipif(find_spec("flash_attn") is not None or find_spec("kernels") is not None, reason="it is installed here"),
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_sentence(words: list[str], capsys: pytest.CaptureFixture[str], extra: list[str], message: str) -> None:
    assert message in refused(capsys, "fit", *words, *extra)


def test_an_interval_longer_than_the_epoch_is_counted_in_words(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fit", *words, "--trainer.val_check_interval", "1000"])
    *_, last = capsys.readouterr().err.splitlines()  # after the remarks on the rows
    assert last == (
        "lit-talr: `trainer.val_check_interval` 1000 is a number of micro-batches, and an epoch has 8; give at most 8, a share of the epoch such as 0.5, or "
        "count across epochs by `--trainer.check_val_every_n_epoch null`."
    )


def test_the_command_comes_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert "`--run`: the command comes first, such as `lit-talr fit --run ...`; there are fit, " in refused(capsys, "--run", "x")


@pytest.mark.parametrize(
    ("given", "package"),
    [
        ("MLFlowLogger", "mlflow"),
        ('[{"class_path": "MLFlowLogger"}]', "mlflow"),
        pytest.param("WandbLogger", "wandb", marks=pytest.mark.slow),  # which is imported as a whole
    ],
)
def test_a_logger_whose_package_is_missing_names_the_extra(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, given: str, package: str
) -> None:
    monkeypatch.setattr(f"lightning.pytorch.loggers.{package}._{package.upper()}_AVAILABLE", RequirementCache(f"{package}>=1000"))
    name = "WandbLogger" if package == "wandb" else "MLFlowLogger"
    sentence = f"lit-talr: {name}: {package}>=1000 is not installed; `pip install 'lit-talr[loggers]'` brings it.\n"
    assert refused(capsys, "fit", *words, "--trainer.logger", given) == sentence


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("import nothing_there", "`model.loss`: own_losses.Power cannot be imported (No module named 'nothing_there'); install nothing_there."),
        ("from lit_talr.losses import Nothing", "`model.loss`: Power: cannot import name 'Nothing' from 'lit_talr.losses'"),
    ],
)
def test_the_cause_of_an_import_that_fails_is_said(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, line: str, sentence: str
) -> None:
    (tmp_path / "own_losses.py").write_text(f"{line}\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert sentence in refused(capsys, "fit", *words, "--model.loss", "own_losses.Power")


def test_a_logger_without_its_key_says_how_to_get_one() -> None:
    error = type("UsageError", (Exception,), {"__module__": "wandb.errors.errors"})("No API key configured.")
    assert explain(error, []) == (
        "`trainer.logger: WandbLogger`: wandb cannot begin (No API key configured.); `wandb login` once, or set the variable WANDB_MODE=offline."
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="it has a GPU")
def test_a_strategy_of_gpus_names_its_twin(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    without = [word for word in words if word not in ("--trainer.accelerator", "cpu")]
    sentence = "no GPU is found here; on CPU ranks use -c configs/strategy/zero1-cpu.yaml, or `--trainer.accelerator cpu`."
    assert sentence in refused(capsys, "fit", *without, "-c", "configs/strategy/zero1.yaml")
    said = explain(ValueError("No supported gpu backend found!"), ["fit", "--trainer.strategy", "deepspeed_stage_3"])
    assert said and "use -c configs/strategy/zero3-cpu.yaml" in said
    files = {path.stem for path in (PACKAGE / "configs" / "strategy").iterdir()}
    assert files == {name for file in files for name in (file.removesuffix("-cpu"), f"{file.removesuffix('-cpu')}-cpu")}


@pytest.mark.parametrize(("files", "missing"), [(BASE[:4], "`model.loss` is missing"), ([*BASE[:2], *BASE[4:]], "`data` is missing")])
def test_a_missing_part_names_the_file_that_gives_it(capsys: pytest.CaptureFixture[str], files: list[str], missing: str) -> None:
    folder = "loss" if "loss" in missing else "data"
    assert f"{missing}; give it by a file, such as -c configs/{folder}/" in refused(capsys, "fit", *files, "--model.pretrained", "some/model")


def test_a_fit_without_base_yaml_says_what_it_lacks(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fit", *words[2:], "--ckpt_path", "last"])
    said = capsys.readouterr().err
    assert said.startswith("`trainer.callbacks` is without Summary, HFExport, WholeCheckpoint; so the run has no metrics.json, no export and no checkpoints ")
    assert "; begin with -c configs/base.yaml, which lists them.\nlit-talr: `ckpt_path`: " in said


def test_nothing_at_all_is_answered_with_whole_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, "fit").endswith("the data needs a tokenizer; configs/experiment has whole runs.\n")


def test_a_repeated_key_in_a_file_is_named_with_its_lines(words: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("trainer:\n  max_epochs: 1\n\ntrainer:\n  max_steps: 2\n")
    sentence = "mine.yaml: the key `trainer` stands in line 1 and again in line 4; join the two."
    assert sentence in refused(capsys, "fit", *words, "-c", str(tmp_path / "mine.yaml"))


def test_a_misspelt_key_in_a_file_names_it(words: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("model:\n  losss: 3\n")
    assert "mine.yaml: Subcommand 'fit' does not accept option 'model.losss'; did you mean model.loss?\n" in refused(
        capsys, "fit", *words, "-c", str(tmp_path / "mine.yaml")
    )


def test_a_tokenizer_in_a_file_is_refused_too(words: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("data:\n  init_args:\n    tokenizer: x\n")
    assert "data.tokenizer` is not an option of its own" in refused(capsys, "fit", *words, f"--config={tmp_path / 'mine.yaml'}")


def test_a_file_that_is_not_yaml_is_named_with_its_line(words: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("model: [1,\n  2\nrun: x")
    error = refused(capsys, "fit", *words, "-c", str(tmp_path / "mine.yaml"))
    assert "mine.yaml: is not YAML" in error and "line 3" in error


@pytest.mark.parametrize(("key", "option"), [("data", "train"), ("model.loss", "floor")])
def test_an_option_of_a_class_that_is_not_named_yet(capsys: pytest.CaptureFixture[str], key: str, option: str) -> None:
    message = f"`{key}` has no class yet that could take `{option}`; name one before it"
    assert message in refused(capsys, "fit", *BASE[:2], f"--{key}.{option}", "1")


@pytest.mark.parametrize(("content", "message"), [(b"", "mine.yaml: holds no settings"), (b"# \xe9", "mine.yaml: is not UTF-8")])
def test_a_file_without_settings_is_named(words: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "mine.yaml").write_bytes(content)
    assert message in refused(capsys, "fit", *words, "-c", str(tmp_path / "mine.yaml"))


def test_a_checkpoint_cut_short_is_refused_before_anything_is_built(words: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    main(["fit", *words, "--trainer.max_steps", "1"])
    last, best = sorted((tmp_path / "run" / "checkpoints").iterdir(), reverse=True)
    assert (last.name, best.name) == ("last-step=1.ckpt", "best-epoch=1-step=1.ckpt")
    for path in (last, best):
        path.write_bytes(path.read_bytes()[:-1000])
    assert "last-step=1.ckpt is not a whole checkpoint: it is cut short" in refused(capsys, "fit", *words, "--ckpt_path", str(last))
    assert "of the 2 checkpoint(s) in" in refused(capsys, "fit", *words, "--ckpt_path", "last")


@pytest.mark.slow
def test_a_start_that_was_refused_does_not_use_up_the_folder(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    refused(capsys, "fit", *words, "--model.pretrained", "./nowhere")
    main(["fit", *words, "--trainer.max_steps", "1"])


@pytest.mark.slow
def test_a_trained_run_is_not_scored_with_other_weights(words: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    main(["fit", *words, "--trainer.max_steps", "1"])
    run = tmp_path / "run"
    assert "which this would not test; ask for it with `--ckpt_path last`" in refused(capsys, "test", "-c", str(run / "config.yaml"))
    export = ["--model.architecture", "null", "--model.tokenizer", "null", "--model.pretrained", str(run / "export")]
    main(["test", "-c", str(run / "config.yaml"), *export])


@pytest.mark.slow
def test_scores_are_never_those_of_other_adapters(words: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    start = ["--model.architecture", "null", "--model.pretrained", str(tmp_path / "model")]
    main(["fit", *words, *start, "-c", "configs/adapter/lora.yaml", "--model.adapter.r", "2", "--trainer.max_steps", "1"])
    test = ["test", "-c", str(tmp_path / "run" / "config.yaml"), "--ckpt_path", "last"]
    sentence = f"its model.adapter.alpha is 64, here 6400; test it by `-c {tmp_path / 'run' / 'config.yaml'}`, the configuration of its run."
    assert sentence in refused(capsys, *test, "--model.adapter.alpha", "6400")
    main(test)
    adapter = ["--model.tokenizer", "null", "--model.pretrained", str(tmp_path / "run" / "adapter"), "--run", str(tmp_path / "other")]
    assert "adapter holds an adapter (adapter_config.json); give a model with its update merged in" in refused(capsys, *test[:3], *adapter)


@pytest.mark.slow
def test_tokens_in_place_of_rows_as_the_documentation_says(words: list[str]) -> None:
    main(["fit", *words, "--trainer.max_steps", "1", "--data.batching", "{micro_batch_size: null, micro_batch_tokens: 8192}"])


@pytest.mark.slow
def test_a_base_models_card_may_hold_anything(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "model" / "README.md").write_text("---\ntitle: a: b\n---\n")
    main(["fit", *words, "--model.architecture", "null", "--model.pretrained", str(tmp_path / "model"), "--trainer.max_steps", "1"])
    assert "| not readable in its card |" in (tmp_path / "run" / "export" / "README.md").read_text()


def test_debug_gives_the_traceback(words: list[str]) -> None:
    with pytest.raises(ValueError, match="`temperature` must be above 0"):
        main(["fit", *words, "--model.loss.temperature", "0", "--debug"])


def test_a_run_from_fit_to_test(words: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """One folder holds all; it is refused for another run, continued by ``last``, tested from its own configuration and from its export."""
    run = tmp_path / "run"
    main(["fit", *words])
    assert {path.name for path in run.iterdir()} >= {"config.yaml", "metrics.json", "checkpoints", "export"}
    assert f"{run} already holds a run; `--ckpt_path auto` continues it, or name another folder." in refused(capsys, "fit", *words)

    main(["fit", *words, "--trainer.max_steps", "3", "--ckpt_path", "last"])
    assert (run / "config.resume-1.yaml").is_file()
    assert len(json.loads((run / "provenance.json").read_text())["fits"]) == 2
    numbers = json.loads((run / "metrics.json").read_text())
    main(["fit", *words, "--trainer.max_steps", "3", "--ckpt_path", "last"])  # at its end already: nothing is measured anew, and nothing is lost
    assert json.loads((run / "metrics.json").read_text()) == numbers

    main(["test", "-c", str(run / "config.yaml"), "--ckpt_path", "last"])
    answers = [json.loads(line) for line in (run / "answers" / "test.jsonl").read_text().splitlines()]
    assert [answer["id"] for answer in answers] == [0, 1, 2, 3]
    assert all(answer["row"] == f"{tmp_path / 'test.jsonl'}: row {answer['id'] + 1}" for answer in answers)
    tested = read_values(run, "test")
    assert tested["test/score"] == sum(answer["correct"] for answer in answers) / 4
    assert tested["test/cut"] == sum(answer["cut"] for answer in answers) / 4
    assert "val/nll" in read_values(run, "fit")

    card = (run / "export" / "README.md").read_text()
    assert "| test/score |" in card and "| val/nll |" in card and str(tmp_path / "train.jsonl") in card and "lit-talr fit -c configs/base.yaml" in card
    exported = AutoModelForCausalLM.from_pretrained(run / "export")
    assert AutoTokenizer.from_pretrained(run / "export").chat_template
    assert exported.dtype == torch.float32 and exported.generation_config.eos_token_id == [258]
    other = ["--model.architecture", "null", "--model.tokenizer", "null", "--model.pretrained", str(run / "export"), "--run", str(tmp_path / "other")]
    main(["test", "-c", str(run / "config.yaml"), *other])
    again = [json.loads(line) for line in (tmp_path / "other" / "answers" / "test.jsonl").read_text().splitlines()]
    assert [answer["text"] for answer in again] == [answer["text"] for answer in answers]


@pytest.mark.slow
def test_answers_on_validation_rows_every_so_many_epochs(words: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """With a list that replaces the callbacks of base.yaml, which is said; ``test`` prints its scores without ``Summary`` too."""
    score: dict[str, Any] = {"class_path": "DomainScore", "init_args": {"every_n_epochs": 2}}
    epochs = ["--trainer.max_steps", "-1", "--trainer.max_epochs", "2", "--data.batching.batch_size", "16"]
    main(["fit", *words, *epochs, "--trainer.callbacks", json.dumps([score])])
    assert [path.name for path in (tmp_path / "run" / "answers").iterdir()] == ["val-epoch-2.jsonl"]
    assert "--trainer.callbacks: `callbacks` replaces those before it, without TokenProgressBar, Summary, " in capsys.readouterr().err
    main(["test", "-c", str(tmp_path / "run" / "config.yaml"), "--ckpt_path", "last"])
    assert "test/score" in capsys.readouterr().out


def test_shipped_configurations_are_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["fit", *BASE, "--model.pretrained", "some/model", "--print_config"])
    assert stop.value.code == 0
    assert re.search(r"class_path: lit_talr\.(losses\.)?TALR\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["mrge", "--out", "x"],
            "there is no command `mrge`; did you mean `merge`? There are fit, validate, test, "
            "curriculum, demo, diagnose, estimate, export, heatmap, merge, report, sweep.",
        ),
        (["curriculum"], "required: folder"),
        (["merge", "--tuned", "nowhere"], "out"),
        (["merge", "--out", "c", "--tuned", "./nowhere", "--base", "./nowhere"], "./nowhere is not a folder with a config.json; give"),
        (["merge", "--out", "tests", "--tuned", "a", "--base", "b"], "tests is there already; name a new folder."),
        (["curriculum", "nowhere"], "nowhere: is no folder; name the folder of a run"),
        (["curriculum", "nowhere", "--evry", "2"], "--evry"),
        (["demo", "--rows", "many"], "`rows` must be a whole number, got many."),
    ],
)
def test_bad_input_to_the_other_verbs_is_one_sentence(capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    error = capsys.readouterr().err
    assert ended.value.code == 1 and message in error and error.startswith("lit-talr: ") and error.count("\n") == 1
