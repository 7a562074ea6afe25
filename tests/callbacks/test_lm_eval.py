"""Benchmarks of lm-evaluation-harness on tiny models and rows, and on real rows against the harness's own command."""

import gzip
import json
import math
import os
import random
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback

from lit_talr.callbacks import GeneralBudget, GeneralScore, HFExport, LMEval, Summary
from lit_talr.callbacks.lm_eval import tokenizer_hash
from lit_talr.cli.command_line import main
from lit_talr.data.tokenizer import load_tokenizer
from lit_talr.domains import Records
from lit_talr.losses import Standard
from lit_talr.modeling.adapters import Adapter, LoRA
from lit_talr.modeling.generation import Generation
from lit_talr.modeling.loading import load_model
from lit_talr.module import DomainSFT
from lit_talr.report.tables import collect
from lit_talr.tasks.base import Benchmark
from lit_talr.training.building import Compute
from lit_talr.training.schedules import Constant
from lit_talr.utils.files import read_json, read_json_lines, write_json, write_json_lines
from tests.helpers.fits import records, write_data
from tests.helpers.scores import read_values
from tests.tasks.test_code_tests import PROBLEM

harness = pytest.importorskip("lit_talr.tasks.harness")

CHOICE = """
task: choice
tag: tiny
dataset_path: json
dataset_kwargs: {data_files: {test: choice.jsonl}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{question}}"
doc_to_choice: ["yes", "no"]
doc_to_target: answer
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
metadata: {version: 7}
"""
WRITTEN = """
task: written
tag: tiny
dataset_path: json
dataset_kwargs: {data_files: {test: written.jsonl}}
output_type: generate_until
test_split: test
fewshot_split: test
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
num_fewshot: 2
generation_kwargs: {until: ["\\n"], do_sample: true, temperature: 1.0, max_gen_toks: 8}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
metadata: {version: 1}
"""
PERPLEXITY = """
task: perplexity
dataset_path: json
dataset_kwargs: {data_files: {test: written.jsonl}}
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: "{{question}}"
metric_list: [{metric: bits_per_byte, aggregation: bits_per_byte, higher_is_better: false}]
"""
BOTH = {"choice": Benchmark("acc,none", limit=6), "written": Benchmark("exact_match,none", max_gen_toks=4)}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model whose folder has its tokenizer, rows of a domain, and in ``tasks/`` task files and their data."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    write_data(tmp_path)
    (tmp_path / "tokenizer").rename(tmp_path / "old")
    for file in (tmp_path / "old").iterdir():
        file.rename(tmp_path / "model" / file.name)
    (tmp_path / "tokenizer").symlink_to(tmp_path / "model")
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    for name, text in (("choice", CHOICE), ("written", WRITTEN), ("perplexity", PERPLEXITY)):
        (tasks / f"{name}.yaml").write_text(text)
    write_json_lines(tasks / "choice.jsonl", [{"question": f"Is {n} even?", "answer": ("yes", "no")[n % 2]} for n in range(8)])
    write_json_lines(tasks / "written.jsonl", [{"question": f"{n}, ", "answer": str(n + 1)} for n in range(5)])
    return tmp_path


def asked(folder: Path, tasks: dict[str, Benchmark], batch_size: int = 3, code: bool = False, every: int | None = 1, template: bool = False) -> LMEval:
    return LMEval(tasks, every, str(folder / "tasks"), str(folder / "tasks"), batch_size, template, code)


def watched(
    folder: Path, run: str, *callbacks: Callback, epochs: int = 1, adapter: Adapter | None = None, precision: Any = "32-true", attention: str | None = None
) -> tuple[Trainer, DomainSFT, Records]:
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False, "enable_model_summary": False}
    options: dict[str, Any] = {"accelerator": "cpu", "devices": 1, "max_epochs": epochs, "num_sanity_val_steps": 0, "default_root_dir": folder / run}
    model: dict[str, Any] = {"pretrained": str(folder / "model"), "adapter": adapter, "compute": Compute(attention=attention)}
    module = DomainSFT(Standard(), partial(torch.optim.SGD, lr=0.5), Constant(), **model)
    module.generation = Generation(max_new_tokens=4)
    return Trainer(callbacks=list(callbacks), precision=precision, **quiet, **options), module, records(folder)


def fit(
    folder: Path, run: str, *callbacks: Callback, epochs: int = 1, adapter: Adapter | None = None, precision: Any = "32-true", attention: str | None = None
) -> tuple[Trainer, DomainSFT]:
    trainer, module, data = watched(folder, run, *callbacks, epochs=epochs, adapter=adapter, precision=precision, attention=attention)
    trainer.fit(module, datamodule=data)
    return trainer, module


def test_log_likelihoods_are_those_of_the_models_logits(folder: Path) -> None:
    fit(folder, "run", asked(folder, {"choice": Benchmark("acc,none")}))
    rows = read_json_lines(folder / "run" / "answers" / "general-epoch-0.jsonl")
    model, tokenizer = load_model(str(folder / "model"), None, None, 0, None).eval(), load_tokenizer(str(folder / "model"))
    assert len(rows) == 8
    for n, row in enumerate(rows):
        found = []
        for choice in ("yes", "no"):
            prompt, answer = tokenizer.encode(f"Is {n} even?"), tokenizer.encode(f" {choice}")
            logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1].detach()
            found.append(float(logits.log_softmax(-1)[range(len(answer)), answer].sum()))
        assert [part[0][0] for part in row["resps"]] == pytest.approx(found, abs=1e-4)
        assert row["correct"] == (np.argmax(found) == n % 2) and row["truth"] == ("yes", "no")[n % 2]


def test_before_after_every_epoch_and_in_test_with_all_that_was_asked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    trainer, _ = fit(folder, "run", asked(folder, {**BOTH, "perplexity": Benchmark()}), Summary())
    run = folder / "run"
    assert {path.name for path in (run / "answers").iterdir()} == {"general-epoch-0.jsonl", "general-base-test.jsonl", "general-epoch-1.jsonl"}
    record, found = read_json(run / "lm_eval.json"), read_values(run, "fit")
    assert record["lm_eval"] == harness.VERSION and record["tasks"]["choice"]["version"] == 7 and record["tasks"]["written"]["num_fewshot"] == 2
    assert record["tasks"]["written"]["generation_kwargs"]["max_gen_toks"] == 4 and record["tasks"]["choice"]["doc_to_text"] == "{{question}}"
    assert record["files"].keys() == {"choice.jsonl", "written.jsonl"} and record["benchmarks"]["choice"]["limit"] == 6 and record["batch_size"] == 3
    assert record["generation"]["eos_token_id"] == [258] and record["results"].keys() == {"epoch-0", "epoch-1"}
    rows = read_json_lines(run / "answers" / "general-epoch-1.jsonl")
    shares = {name: np.mean([row["correct"] for row in rows if row["suite"] == name]) for name in BOTH}
    assert [row["id"] for row in rows] == [*range(6), *range(5)]
    assert found["general/choice"] == pytest.approx(shares["choice"]) == found["lm_eval/choice/acc"] and found["lm_eval/perplexity/bits_per_byte"] > 0
    assert found["general/mean"] == pytest.approx(np.mean([*shares.values()])) and "general/perplexity" not in found
    before = record["results"]["epoch-0"]["by_suite"]
    assert found["general/drop"] == pytest.approx(np.mean([*before.values()]) - found["general/mean"])
    base = read_json_lines(run / "answers" / "general-epoch-0.jsonl")
    lost = {name: [a["correct"] - b["correct"] for a, b in zip(base, rows, strict=True) if a["suite"] == name] for name in BOTH}
    assert found["general/drop_se"] == pytest.approx(math.sqrt(sum(np.var(part, ddof=1) / len(part) for part in lost.values())) / 2)
    trainer, module, data = watched(folder, "run", asked(folder, BOTH, every=None), Summary())
    (scores,) = trainer.test(module, datamodule=data, verbose=False)  # of the untrained model: nothing is lost
    assert scores["general/drop"] == 0 and scores["general/mean"] == pytest.approx(np.mean([before[name] for name in BOTH]))
    assert read_json(run / "lm_eval.json")["results"].keys() == {"epoch-0", "epoch-1", "test"} and (run / "answers" / "general-test.jsonl").is_file()


def test_training_is_not_disturbed(folder: Path) -> None:
    """By seeds, sampled answers, modes, ties or settings of the model."""
    ends = []
    for callbacks in ([], [asked(folder, BOTH)]):
        random.seed(5)
        np.random.seed(5)
        torch.manual_seed(5)
        _, module = fit(folder, f"run-{len(callbacks)}", *callbacks)
        assert module.backbone is not None
        model = module.backbone.model
        assert model.training and model.generation_config.eos_token_id is None and model.get_input_embeddings().weight is module.backbone.head.weight
        ends.append((model.state_dict(), torch.get_rng_state(), random.random(), np.random.random()))
    assert all(torch.equal(value, ends[1][0][name]) for name, value in ends[0][0].items()) and torch.equal(ends[0][1], ends[1][1])
    assert ends[0][2:] == ends[1][2:]


@pytest.mark.parametrize("adapter", [None, LoRA(r=2, alpha=64)])
def test_the_model_in_memory_answers_as_its_export(folder: Path, adapter: Adapter | None) -> None:
    fit(folder, "run", asked(folder, BOTH), HFExport(), adapter=adapter)
    model, tokenizer = load_model(str(folder / "run" / "export"), None, None, 0, None), load_tokenizer(str(folder / "run" / "export"))
    manager = harness.find_tasks([*BOTH], str(folder / "tasks"))
    rows = read_json_lines(folder / "run" / "answers" / "general-epoch-1.jsonl")
    assert rows != read_json_lines(folder / "run" / "answers" / "general-epoch-0.jsonl")
    for name, benchmark in BOTH.items():
        loaded = harness.load(manager, name, folder / "tasks", None, benchmark.max_gen_toks)
        samples, _ = harness.ask(harness.SplitLM(model, tokenizer, 3), loaded, benchmark.limit, False, False)
        resps = json.loads(json.dumps([sample["resps"] for sample in samples["samples"][name]]))
        own = [row["resps"] for row in rows if row["suite"] == name]
        if adapter is None or name == "written":
            assert own == resps
        else:
            numbers = [np.array([[part[0][0] for part in item] for item in items]) for items in (own, resps)]
            np.testing.assert_allclose(*numbers, atol=1e-4)  # W x + B A x, and (W + B A) x


@pytest.mark.slow
def test_runs_side_by_side_share_the_base_models_scores(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit(folder, "first", asked(folder, BOTH))
    calls: list[str] = []
    ask = harness.ask
    monkeypatch.setattr(harness, "ask", lambda *words: calls.append("") or ask(*words))
    trainer, _ = fit(folder, "second", asked(folder, BOTH))
    assert len(calls) == 2  # after the epoch only
    parts = [(folder / run / "answers" / "general-epoch-0.jsonl").read_text() for run in ("first", "second")]
    assert parts[0] == parts[1] and not math.isnan(trainer.callback_metrics["general/drop"])
    fit(folder, "third", asked(folder, BOTH, batch_size=2))
    assert len(calls) == 2 + 4


@pytest.mark.slow
def test_another_dtype_attention_or_tokenizer_is_another_base_model(folder: Path) -> None:
    num_cached = lambda: len(list((folder / ".cache").glob("base-lm-eval-*.safetensors")))  # noqa: E731
    callback = lambda: asked(folder, {"choice": Benchmark("acc,none", limit=1)})  # noqa: E731
    fit(folder, "full", callback(), precision="bf16-mixed")
    fit(folder, "again", callback(), precision="bf16-mixed")
    assert num_cached() == 1
    fit(folder, "lora", callback(), precision="bf16-mixed", adapter=LoRA(r=2, alpha=2))
    assert num_cached() == 2
    fit(folder, "eager", callback(), precision="bf16-mixed", attention="eager")
    assert num_cached() == 3
    tokenizer = load_tokenizer(str(folder / "model"))
    before = tokenizer_hash(tokenizer)
    tokenizer(["a", "abc"], padding=True, truncation=True, max_length=2)
    assert tokenizer_hash(tokenizer) == before
    tokenizer.add_tokens("abc")
    assert tokenizer_hash(tokenizer) != before


@pytest.mark.slow
def test_data_of_groups_and_tags_is_checked_and_part_of_the_key(folder: Path) -> None:
    both = "group: both\ntask: [choice]\naggregate_metric_list: [{metric: acc, weight_by_size: true}]\n"
    (folder / "tasks" / "both.yaml").write_text(both)
    start = lambda run: read_json(folder / run / "lm_eval.json")["results"]["epoch-0"]["results"]["choice"]["acc,none"]  # noqa: E731
    for name, files in (("both", {"choice.jsonl"}), ("tiny", {"choice.jsonl", "written.jsonl"})):
        shares = []
        for answer in ("yes", "no"):
            write_json_lines(folder / "tasks" / "choice.jsonl", [{"question": f"Is {n} even?", "answer": answer} for n in range(8)])
            fit(folder, f"{name}-{answer}", asked(folder, {name: Benchmark()}))
            shares.append(start(f"{name}-{answer}"))
        assert sum(shares) == 1 and read_json(folder / f"{name}-no" / "lm_eval.json")["files"].keys() == files
    (folder / "tasks" / "choice.jsonl").write_text("")
    for name in ("both", "tiny"):
        with pytest.raises(ValueError, match=r"lacks what `choice` reads \(choice.jsonl is empty\)"):
            fit(folder, "empty", asked(folder, {name: Benchmark()}))


def test_a_group_without_scores_of_its_own_logs_those_of_its_tasks(folder: Path) -> None:
    (folder / "tasks" / "bare.yaml").write_text("group: bare\ntask: [choice]\n")
    trainer, _ = fit(folder, "run", asked(folder, {"bare": Benchmark()}))
    assert {name for name in trainer.callback_metrics if name.startswith("lm_eval/")} == {"lm_eval/choice/acc"}


@pytest.mark.slow
def test_results_of_other_settings_do_not_meet(folder: Path) -> None:
    fit(folder, "run", asked(folder, {**BOTH, "perplexity": Benchmark(limit=2)}), HFExport())
    record = read_json(folder / "run" / "lm_eval.json")
    assert str(folder) not in json.dumps(record)  # or a run that was moved would have other settings
    written = BOTH["written"]
    for tasks, batch_size, sentence in (
        (
            {**BOTH, "written": Benchmark(written.metric, max_gen_toks=3)},
            3,
            "`benchmarks.written.max_gen_toks` was 4 and is 3; ask what the run was begun with",
        ),
        ({**BOTH, "choice": Benchmark("f1,none", limit=6)}, 3, '`benchmarks.choice.metric` was "acc,none" and is "f1,none"'),
        ({**BOTH, "perplexity": Benchmark(limit=3)}, 3, "`benchmarks.perplexity.limit` was 2 and is 3"),
        ({"written": written}, 3, r'`benchmarks.choice` was \{"metric": "acc,none".* and is null'),
        (BOTH, 2, "`batch_size` was 3 and is 2"),
    ):
        trainer, module, data = watched(folder, "run", asked(folder, tasks, batch_size, every=None))
        with pytest.raises(ValueError, match=f"are not to the items that are asked now, or not in the same way: {sentence}"):
            trainer.test(module, datamodule=data, verbose=False)
    assert read_json(folder / "run" / "lm_eval.json") == record
    trainer, module, data = watched(folder, "run", asked(folder, BOTH, every=None))
    module.pretrained = str(folder / "run" / "export")  # the same settings, though it has a file of them
    trainer.test(module, datamodule=data, verbose=False)
    after = read_json(folder / "run" / "lm_eval.json")
    assert all(after[part] == record[part] for part in ("benchmarks", "files", "tasks")) and after["results"].keys() == {"epoch-0", "epoch-1", "test"}
    write_json_lines(folder / "tasks" / "choice.jsonl", [{"question": f"Is {n} odd?", "answer": "yes"} for n in range(8)])
    trainer, module, data = watched(folder, "run", asked(folder, BOTH, every=None))
    with pytest.raises(ValueError, match="in the same way: `files.choice.jsonl` was "):
        trainer.test(module, datamodule=data, verbose=False)


Report = tuple[dict[str, str], str | None]
"""What a rank cannot get, and why it stops."""


def test_what_one_rank_cannot_get_none_asks(folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    reported: list[Report] = []

    def gather(reports: list[Report]) -> list[Report]:
        reported.extend(reports)
        return [*reports, other]

    monkeypatch.setattr("lit_talr.callbacks.lm_eval.gather_lists", gather)
    other: Report = ({"written": "no such file on this node"}, None)
    trainer, _ = fit(folder, "run", asked(folder, BOTH))
    assert "general/choice" in trainer.callback_metrics and "general/written" not in trainer.callback_metrics
    assert "`written` is not available here (no such file on this node); the other benchmarks are asked." in caplog.text
    other = ({}, "`data_folder`: what is wrong there.")
    with pytest.raises(ValueError, match="^`data_folder`: what is wrong there.$"):
        fit(folder, "other", asked(folder, BOTH))
    (folder / "tasks" / "choice.jsonl").unlink()
    with pytest.raises(ValueError, match="choice.jsonl is not there"):
        fit(folder, "own", asked(folder, BOTH))
    assert "choice.jsonl is not there" in str(reported[-1][1]) and [problem for _, problem in reported[:-1]] == [None, None]


def test_a_right_answer_that_is_no_choice_is_not_counted_as_wrong(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor where the data is not local, so that rows are not looked at before they are asked."""
    monkeypatch.setattr(harness, "check_rows", lambda task: None)
    write_json_lines(folder / "tasks" / "choice.jsonl", [{"question": f"Is {n} even?", "answer": ("yes", "No")[n % 2]} for n in range(4)])
    with pytest.raises(ValueError, match=r"the right answer of an item of `choice` is none of its choices: \{'question': 'Is 1 even\?', 'answer': 'No'\}"):
        fit(folder, "run", asked(folder, {"choice": Benchmark()}))


ROW = b'{"question": "a", "answer": "yes"}\n'


@pytest.mark.parametrize(
    ("files", "change", "sentence"),
    [
        ({"x.jsonl.gz": gzip.compress(ROW * 200)[:-12]}, {}, r"\(EOFError: Compressed file ended .*\) in x.jsonl.gz; see docs/benchmarks.md\."),
        ({"x.jsonl.gz": gzip.compress(b"")}, {}, r"\(x.jsonl.gz is empty\)"),
        ({"x.jsonl/a": ROW}, {}, r"\(\[Errno 21\] Is a directory: '.*x.jsonl'\)"),
        ({"x.jsonl": ROW + b'{"question": "b", "answer": null}\n'}, {}, r"\(item 2 has no `answer`\) in x.jsonl"),
        ({"x.jsonl": ROW + b'{"answer": "no"}\n'}, {}, r"\(item 2 has no `question`\)"),
        ({"x.jsonl": b'{"question": "a"}\n'}, {}, r"\(there is no column `answer`, only `question`\)"),
        (
            {"x.jsonl": ROW + b'{"question": "b", "answer": "No"}\n'},
            {},
            r"\(the right answer of item 2 is 'No', which is none of its choices \['yes', 'no'\]\)",
        ),
        ({"x.jsonl": '{"question": "Gr\u00fc\u00dfe", "answer": "yes"}\n'.encode("latin-1")}, {}, r"\('utf-8' codec can't decode byte .*\) in x.jsonl"),
        ({"x.jsonl": b"\n\n"}, {}, r"\(.*\) in x.jsonl"),
        ({"x.jsonl": ROW}, {"test_split: test": "test_split: exam"}, r"\(`test_split` is `exam`, which its `data_files` lack\) in x.jsonl"),
        (
            {"x.jsonl": ROW, "x.jsonl.bak": ROW},
            {},
            r"\(x.jsonl\* is more than one file: x.jsonl, x.jsonl.bak; leave one there, or name each in the task file\)",
        ),
        ({"x.jsonl": ROW, "x.jsonl.gz.part": ROW}, {}, r"\(x.jsonl\* is more than one file: x.jsonl, x.jsonl.gz.part"),
        ({"x.jsonl": b"PAR1 cut"}, {"dataset_path: json": "dataset_path: parquet"}, r"\(.*Parquet.*\) in x.jsonl"),
        ({"x.jsonl": ROW}, {"data_files: {test: x.jsonl*}": "data_dir: here"}, r"\(it names no `data_files`\)"),
    ],
)
def test_bad_data_is_reported_with_its_file_and_task(folder: Path, files: dict[str, bytes], change: dict[str, str], sentence: str) -> None:
    config = CHOICE.replace("task: choice", "task: x").replace("choice.jsonl", "x.jsonl*")
    for old, new in change.items():
        assert old in config
        config = config.replace(old, new)
    (folder / "tasks" / "x.yaml").write_text(config)
    for name, content in files.items():
        (folder / "tasks" / name).parent.mkdir(exist_ok=True)
        (folder / "tasks" / name).write_bytes(content)
    manager = harness.find_tasks(["x"], str(folder / "tasks"))
    with pytest.raises(ValueError, match=f"^`data_folder`: .*tasks lacks what `x` reads {sentence}"):
        harness.load(manager, "x", folder / "tasks", None, None)


def test_mmlu_is_looked_at_before_it_is_asked(folder: Path) -> None:
    write_benchmarks(folder / "data")
    file = folder / "data" / "mmlu" / "mmlu.parquet"
    good, manager = pd.read_parquet(file), harness.find_tasks(["mmlu_local"], None)
    for rows, sentence in (
        (good.assign(answer=good["answer"].str.lower()), r"`mmlu_local::abstract_algebra` reads \(the right answer of item 1 is 'c'"),
        (good.assign(B=None), r"\(item 1 has no `B`\) in mmlu/mmlu.parquet"),
        (good[good["subject"] != "anatomy"], "what `mmlu_local::anatomy` reads .* in mmlu/mmlu.parquet; see"),
    ):
        rows.to_parquet(file)
        with pytest.raises(ValueError, match=sentence):
            harness.load(manager, "mmlu_local", folder / "data", None, None)


def test_a_resumed_run_compares_with_the_same_base_model(folder: Path) -> None:
    trainer, _ = fit(folder, "run", asked(folder, BOTH))
    trainer.save_checkpoint(folder / "one.ckpt")
    before = read_json(folder / "run" / "lm_eval.json")["results"]["epoch-0"]
    trainer, module, data = watched(folder, "run", asked(folder, BOTH), epochs=2)
    trainer.fit(module, datamodule=data, ckpt_path=folder / "one.ckpt", weights_only=True)
    record = read_json(folder / "run" / "lm_eval.json")["results"]
    assert record["epoch-0"] == before and record.keys() == {"epoch-0", "epoch-1", "epoch-2"}
    assert trainer.callback_metrics["general/drop"] == pytest.approx(np.mean([*before["by_suite"].values()]) - trainer.callback_metrics["general/mean"])
    trainer, module, data = watched(folder, "run", asked(folder, {"choice": Benchmark("acc,none", limit=5)}), epochs=3)
    with pytest.raises(ValueError, match="are not to the items that are asked now"):
        trainer.fit(module, datamodule=data, ckpt_path=folder / "one.ckpt", weights_only=True)
    trainer, module, data = watched(folder, "elsewhere", asked(folder, BOTH), epochs=2)
    with pytest.raises(ValueError, match="`LMEval` must watch a run from its start"):
        trainer.fit(module, datamodule=data, ckpt_path=folder / "one.ckpt", weights_only=True)


def test_next_to_general_score_its_mean_stays(folder: Path) -> None:
    suites = {"sums": lambda tokenizer, revision: records(folder)}
    score = GeneralScore(suites, generation=Generation(max_new_tokens=2))
    trainer, _ = fit(folder, "run", score, GeneralBudget(1.0), asked(folder, BOTH))
    assert {"general/choice", "general/written", "general/sums", "lm_eval/choice/acc", "general/drop"} <= trainer.callback_metrics.keys()
    assert {row["suite"] for row in read_json_lines(folder / "run" / "answers" / "general-epoch-1.jsonl")} == {"sums"}
    rows = read_json_lines(folder / "run" / "answers" / "lm-eval-epoch-1.jsonl")
    assert {row["suite"] for row in rows} == set(BOTH) and not any(row["counts"] for row in rows)
    with pytest.raises(ValueError, match="`general/choice` would be logged by `LMEval` and by `GeneralScore`"):
        fit(folder, "same", GeneralScore({"choice": suites["sums"]}), asked(folder, BOTH))
    with pytest.raises(ValueError, match="`LMEval` must be in `trainer.callbacks` once"):
        fit(folder, "twice", asked(folder, BOTH), asked(folder, {"perplexity": Benchmark()}))


def test_what_would_need_a_download_is_reported_and_the_others_run(folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    text = CHOICE.replace("task: choice", "task: far").replace("dataset_path: json", "dataset_path: owner/far").replace("dataset_kwargs", "metadata_of")
    (folder / "tasks" / "far.yaml").write_text("\n".join(line for line in text.splitlines() if "metadata_of" not in line))
    trainer, _ = fit(folder, "run", asked(folder, {"far": Benchmark("acc,none"), **BOTH}))
    sentence = next(record.message for record in caplog.records if "far" in record.message)
    assert sentence.startswith("LMEval: `far` is not available here (") and "\n" not in sentence and sentence.endswith("; the other benchmarks are asked.")
    assert "general/choice" in trainer.callback_metrics and "general/far" not in trainer.callback_metrics
    assert read_json(folder / "run" / "lm_eval.json")["unavailable"].keys() == {"far"}
    with pytest.raises(ValueError, match="`LMEval` has nothing to ask: `far` is not available here"):
        fit(folder, "none", asked(folder, {"far": Benchmark("acc,none")}))


@pytest.mark.parametrize(
    ("tasks", "sentence"),
    [
        ({"humaneval_local": Benchmark()}, "`humaneval_local` runs the code that the model writes; allow it with `allow_code_execution: true`"),
        ({"gsm8k_local": Benchmark()}, r"`data_folder`: .*tasks lacks what `gsm8k_local` reads \(gsm8k/train.jsonl\* is not there\)"),
        ({"choice": Benchmark("f1,none")}, r"`choice` has no metric `f1,none`; it has `acc,none`\."),
        ({"perplexity": Benchmark("bits_per_byte,none")}, r"`bits_per_byte,none` of `perplexity` is not right or wrong by item but \("),
        ({"tiny": Benchmark("acc,none")}, "`tiny` is a tag of several tasks, which has no score of its own"),
        ({"broken": Benchmark()}, r"`data_folder`: .*tasks lacks what `broken` reads \(.*JSON parse error"),
        ({"lacking": Benchmark()}, r"`data_folder`: .*tasks lacks what `lacking` reads \('query' is undefined\)"),
        ({"empty": Benchmark()}, r"`data_folder`: .*tasks lacks what `empty` reads \(empty.jsonl is empty\)"),
        ({"written": Benchmark(num_fewshot=6)}, "`num_fewshot`: `written` has 5 examples to put before a question, fewer than 6"),
        (
            {"written": Benchmark(num_fewshot=5)},
            "`written` has 5 examples to put before a question, fewer than 5 other than the question itself",
        ),
        ({"written": Benchmark(max_gen_toks=512)}, "`written` may generate 512 tokens, and the model holds 512 with the prompt"),
    ],
)
def test_refused_tasks(folder: Path, tasks: dict[str, Benchmark], sentence: str) -> None:
    (folder / "tasks" / "humaneval").mkdir()
    write_json_lines(folder / "tasks" / "humaneval" / "HumanEval.jsonl", [PROBLEM])
    for name, text in (("broken", '{"question": '), ("empty", ""), ("lacking", '{"question": "a", "answer": "yes"}')):
        (folder / "tasks" / f"{name}.jsonl").write_text(text)
        config = CHOICE.replace("tag: tiny", "").replace("task: choice", f"task: {name}").replace("choice.jsonl", f"{name}.jsonl")
        (folder / "tasks" / f"{name}.yaml").write_text(config.replace("{{question}}", "{{query}}") if name == "lacking" else config)
    with pytest.raises(ValueError, match=sentence):
        fit(folder, "run", asked(folder, tasks))


def test_refusals(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for words, sentence in (
        ({"tasks": {}}, "`tasks` must name at least one task"),
        ({"every_n_epochs": 0}, "`every_n_epochs` must be at least 1, got 0; null asks nothing during fit"),
        ({"batch_size": 0}, "`batch_size` must be at least 1, got 0"),
        ({"data_folder": "/none"}, "`data_folder` must be a folder, got '/none', which is not there"),
        ({"task_folder": "/none"}, "`task_folder` must be a folder"),
    ):
        with pytest.raises(ValueError, match=sentence):
            LMEval(**{"tasks": BOTH, **words})
    with pytest.raises(ValueError, match="`limit` must be at least 1, got 0; null asks all items"):
        Benchmark(limit=0)
    with pytest.raises(ValueError, match="`metric` must be a metric and its filter, such as `acc,none`, got 'acc'"):
        Benchmark("acc")
    trainer, module, data = watched(folder, "run", asked(folder, BOTH))
    monkeypatch.setattr("lit_talr.training.supported.shards_weights", lambda strategy: True)
    with pytest.raises(ValueError, match=r"not generated where every weight is sharded \(ZeRO-3, FSDP2\)"):
        trainer.fit(module, datamodule=data)
    monkeypatch.undo()
    trainer, module, data = watched(folder, "run", asked(folder, BOTH, template=True))
    data.encoder.tokenizer.chat_template, data.encoder.template.source = None, ""
    with pytest.raises(ValueError, match="`chat_template` needs a tokenizer with a chat template"):
        trainer.fit(module, datamodule=data)
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(ValueError, match=r"which is not installed: `pip install lit-talr\[eval\]`"):
        fit(folder, "run", asked(folder, BOTH))


def test_each_rank_answers_a_share_and_all_get_all(monkeypatch: pytest.MonkeyPatch) -> None:
    for ranks in range(1, 4):
        for number in range(7):
            parts: list[list[str]] = []
            for rank in range(ranks):
                monkeypatch.setattr(harness.dist, "is_initialized", lambda: True)
                monkeypatch.setattr(harness.dist, "get_rank", lambda rank=rank: rank)
                monkeypatch.setattr(harness.dist, "get_world_size", lambda ranks=ranks: ranks)
                monkeypatch.setattr(harness.dist, "all_gather_object", lambda into, own, parts=parts: parts.append(own))
                harness.share(lambda requests: [str(request) for request in requests], [*range(number)])
            assert [one for part in parts for one in part] == [str(n) for n in range(number)]


def write_benchmarks(folder: Path) -> None:
    """The files that the shipped tasks read, one of them not packed."""
    for name in ("gsm8k", "humaneval", "mmlu"):
        (folder / name).mkdir(parents=True)
    sums = [{"question": f"How much is {n} and {n}?", "answer": f"It is <<{n}+{n}={2 * n}>>{2 * n}.\n#### {2 * n}"} for n in range(8)]
    write_json_lines(folder / "gsm8k" / "train.jsonl", sums)
    (folder / "gsm8k" / "test.jsonl.gz").write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in sums[:3]).encode()))
    write_json_lines(folder / "humaneval" / "HumanEval.jsonl", [PROBLEM])
    subjects = sorted(read_config("mmlu_local")["task"], key=lambda task: task["task"])
    columns = {"question": "What?", "A": "this", "B": "that", "C": "those", "D": "these", "answer": "C"}
    rows = [{"split": split, "subject": task["task"], **columns} for split in (*["dev"] * 5, *["test"] * 2) for task in subjects]
    pd.DataFrame(rows).to_parquet(folder / "mmlu" / "mmlu.parquet")


def read_config(name: str) -> dict[str, Any]:
    return harness_yaml(harness.SHIPPED / f"{name}.yaml")


def harness_yaml(file: Path) -> dict[str, Any]:
    from lm_eval.tasks._yaml_loader import load_yaml

    config: dict[str, Any] = load_yaml(file, resolve_func=False)
    return config


@pytest.mark.parametrize("name", ["gsm8k", "humaneval", "ifeval"])
def test_shipped_tasks_are_the_harness_s_but_for_their_data(name: str) -> None:
    from lm_eval import tasks

    own, other = read_config(f"{name}_local"), harness_yaml(Path(tasks.__file__).parent / name / f"{name}.yaml")
    ours = {"task", "tag", "dataset_path", "dataset_name", "dataset_kwargs", "test_split", "filter_list" if name == "humaneval" else "process_results"}
    assert own.keys() - ours == other.keys() - ours
    for key in own.keys() - ours - {"metric_list"}:
        assert own[key] == other[key], key
    for metric, theirs in zip(own["metric_list"], other["metric_list"], strict=True):
        assert metric.keys() == theirs.keys() and all(last(value) == last(theirs[key]) for key, value in metric.items())


def last(value: Any) -> Any:
    """Of a function its name alone, wherever it is."""
    return value.rsplit(".", 1)[-1] if isinstance(value, str) else value


def test_the_shipped_mmlu_is_the_harness_s_57_tasks() -> None:
    from lm_eval import tasks

    folder = Path(tasks.__file__).parent / "mmlu" / "default"
    own, template = read_config("mmlu_local"), harness_yaml(folder / "_default_template_yaml")
    theirs = {config["dataset_name"]: config for config in map(harness_yaml, folder.glob("mmlu_*.yaml"))}
    assert {task["task"] for task in own["task"]} == theirs.keys() and len(theirs) == 57
    for task in own["task"]:
        assert task["dataset_kwargs"]["filters"] == [["subject", "==", task["task"]]] and task["metadata"] == template["metadata"]
        assert theirs[task["task"]]["description"] == own["description"].replace("{{subject | replace('_', ' ')}}", task["task"].replace("_", " "))
    for number, letter in enumerate("ABCD"):
        template["doc_to_text"] = template["doc_to_text"].replace(f"choices[{number}]", letter)
    same = ("doc_to_text", "doc_to_choice", "doc_to_target", "output_type", "metric_list", "test_split", "fewshot_split")
    assert all(own[key] == template[key] for key in same)
    assert own["fewshot_config"]["sampler"] == template["fewshot_config"]["sampler"]


@pytest.mark.slow
def test_the_shipped_file_and_the_report(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_benchmarks(folder / "data")
    files = [word for split in ("train", "val", "test") for word in (f"--data.{split}", str(folder / f"{split}.jsonl"))]
    configs = [word for name in ("base", "data/records", "loss/standard", "eval/lm_eval") for word in ("-c", f"configs/{name}.yaml")]
    options = ["--trainer.callbacks.data_folder", str(folder / "data"), "--trainer.callbacks.allow_code_execution", "true"]
    small = ["--trainer.max_steps", "1", "--trainer.accelerator", "cpu", "--trainer.devices", "1", "--trainer.precision", "32-true"]
    write_model(folder / "long", 2048)
    run = folder / "runs" / "one"
    main(["fit", *configs, *options, *files, *small, "--model.pretrained", str(folder / "long"), "--model.generation.max_new_tokens", "4", "--run", str(run)])
    main(["test", "-c", str(run / "config.yaml"), "--ckpt_path", "last"])
    found = read_values(run, "test")
    assert {"general/mmlu_local", "general/gsm8k_local", "general/mean", "general/drop", "lm_eval/mmlu_local/acc"} <= found.keys()
    (row,) = collect([run]).results.to_dict("records")
    assert row["general"] == pytest.approx(found["general/mean"]) and row["general/mmlu_local"] == pytest.approx(found["general/mmlu_local"])
    assert row["general_lower"] <= row["general"] <= row["general_upper"] and row["drop_lower"] <= row["drop"] <= row["drop_upper"]
    assert len(collect([run]).curves) == 2 and "Traceback" not in capfd.readouterr().err


def write_model(folder: Path, positions: int) -> None:
    """The tiny model with room for longer prompts."""
    config = read_json(folder.parent / "model" / "config.json")
    for file in (folder.parent / "model").iterdir():
        (folder / file.name).parent.mkdir(exist_ok=True)
        (folder / file.name).write_bytes(file.read_bytes())
    write_json(folder / "config.json", {**config, "max_position_embeddings": positions})


@pytest.mark.slow
def test_hub_tasks_offline_and_names_that_nobody_knows(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer, _ = fit(folder, "run", asked(folder, {"gsm8k": Benchmark("exact_match,strict-match"), **BOTH}))
    assert "LMEval: `gsm8k` is not available here" in caplog.text and "general/choice" in trainer.callback_metrics
    with pytest.raises(ValueError, match=r"has no task `gsm8` \(similar: gsm8k"):
        fit(folder, "other", asked(folder, {"gsm8": Benchmark()}))


@pytest.mark.slow
@pytest.mark.skipif("LIT_TALR_DATA" not in os.environ, reason="needs the real benchmarks")
def test_numbers_are_those_of_the_harness_s_own_command_on_the_export(tmp_path: Path) -> None:
    data, run = os.environ["LIT_TALR_DATA"], tmp_path / "run"
    tasks = {
        "mmlu_local": Benchmark("acc,none", limit=2),
        "gsm8k_local": Benchmark("exact_match,flexible-extract", limit=2, max_gen_toks=64),
        "humaneval_local": Benchmark("pass@1,create_test", limit=2, max_gen_toks=64),
    }
    callback = {"class_path": "LMEval", "init_args": {"data_folder": data, "allow_code_execution": True, "tasks": {k: v.__dict__ for k, v in tasks.items()}}}
    (tmp_path / "eval.yaml").write_text(json.dumps({"trainer": {"callbacks+": [callback]}}))
    configs = [word for name in ("configs/base", "configs/model/lab", "configs/data/clinic", "configs/loss/standard") for word in ("-c", f"{name}.yaml")]
    sizes = ["--data.train_size", "8", "--data.val_size", "4", "--trainer.max_steps", "1", "--trainer.precision", "32-true", "--model.optimizer.lr", "1e-3"]
    main(["fit", *configs, "-c", str(tmp_path / "eval.yaml"), *sizes, "--run", str(run), "--trainer.accelerator", "cpu", "--trainer.devices", "1"])
    command = ["-m", "lm_eval", "run", "--model", "hf", "--model_args", f"pretrained={run / 'export'},dtype=float32", "--device", "cpu", "--batch_size", "8"]
    command += ["--tasks", ",".join(tasks), "--include_path", str(harness.SHIPPED), "--limit", "2", "--gen_kwargs", "max_gen_toks=64"]
    command += ["--log_samples", "--output_path", str(tmp_path / "out"), "--confirm_run_unsafe_code"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, *command], cwd=data, check=True, env=environment)
    theirs = {}
    for file in (tmp_path / "out").rglob("samples_*.jsonl"):
        for row in read_json_lines(file):
            theirs[file.name.split("samples_")[1].rsplit("_", 1)[0], row["doc_id"]] = row["resps"]
    rows = read_json_lines(run / "answers" / "general-epoch-1.jsonl")
    assert len(rows) == 57 * 2 + 4
    for row in rows:
        assert row["resps"] == [[plain(part) for part in one] for one in theirs[row["task"], row["doc_id"]]], row["task"]


def plain(value: Any) -> Any:
    """The harness writes pairs as texts."""
    return value if not isinstance(value, list) else [float(value[0]), value[1] in (True, "True")]
