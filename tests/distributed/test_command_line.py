"""The command line on two CPU ranks: fit, resume and test give what one process gives."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lit_talr.cli.command_line import main
from tests.distributed.cases import ROOT
from tests.helpers.fits import distance, write_data
from tests.helpers.scores import read_values

STRATEGIES = ["zero2-cpu", "ddp-cpu", "zero1-cpu"]
pytestmark = pytest.mark.ranks
SHARDED = ["zero3-cpu", "zero3-offload-cpu", "fsdp2-cpu"]
"""Their runs generate no answers."""


def lit_talr(*words: str) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-m", "lit_talr", *words], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return done.stdout


L2 = ("-c", "configs/loss/l2.yaml", "--model.loss.coefficient", "0.05")


def options(folder: Path, path: Path, loss: Sequence[str] = L2) -> list[str]:
    files = [word for split in ("train", "val", "test") for word in (f"--data.{split}", str(folder / f"{split}.jsonl"))]
    return [
        *("-c", "configs/base.yaml", "-c", "configs/data/records.yaml", *loss),
        *("--model.pretrained", str(folder / "model"), "--model.tokenizer", str(folder / "tokenizer"), *files, "--run", str(path)),
        *("--model.optimizer", "torch.optim.SGD", "--model.optimizer.lr", "0.3", "--model.optimizer.fused", "false"),
        *("--model.schedule", "Constant", "--trainer.gradient_clip_val", "null"),
        *("--data.batching.batch_size", "8", "--data.batching.micro_batch_size", "2", "--data.batching.eval_batch_size", "2"),
        *("--trainer.precision", "32-true", "--trainer.accelerator", "cpu", "--model.generation.max_new_tokens", "6"),
    ]


def run(folder: Path, name: str, *strategy: str) -> Path:
    """Three steps, resumed for three more, then tested on five rows."""
    path = folder / name
    words = [*options(folder, path), *strategy]
    lit_talr("fit", *words, "--trainer.max_steps", "3")
    lit_talr("fit", *words, "--trainer.max_steps", "6", "--ckpt_path", "last")
    if name not in SHARDED:
        lit_talr("test", "-c", str(path / "config.yaml"), "--ckpt_path", "last")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_data(folder)
    (folder / "test.jsonl").write_text("".join(json.dumps({"prompt": "ab" * n, "response": "b"}) + "\n" for n in range(1, 6)))
    return folder


@pytest.fixture(scope="module")
def one_process(folder: Path) -> Path:
    return run(folder, "one", "--trainer.devices", "1")


@pytest.mark.slow
def test_a_fit_on_two_ranks_exports_what_one_process_does(folder: Path) -> None:
    words = ["--trainer.max_steps", "3"]
    lit_talr("fit", *options(folder, folder / "fit-two"), *words, "-c", "configs/strategy/zero2-cpu.yaml")
    main(["fit", *options(folder, folder / "fit-one"), *words, "--trainer.devices", "1"])
    weights, expected = (load_file(folder / name / "export" / "model.safetensors") for name in ("fit-two", "fit-one"))
    assert distance(weights, expected, {name: weight * 0 for name, weight in expected.items()}) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_ranks_give_what_one_process_gives(folder: Path, one_process: Path, strategy: str) -> None:
    two = run(folder, strategy, "-c", f"configs/strategy/{strategy}.yaml")
    weights, expected = (load_file(path / "export" / "model.safetensors") for path in (two, one_process))
    assert distance(weights, expected, {name: weight * 0 for name, weight in expected.items()}) < 1e-5

    for part in ("fit", "test"):
        assert read_values(two, part) == pytest.approx(read_values(one_process, part), rel=1e-4), part

    answers, right = (read(path) for path in (two, one_process))
    assert [answer["id"] for answer in answers] == [0, 1, 2, 3, 4]
    assert answers == right


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "answers" / "test.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", SHARDED)
def test_sharded_weights_resume_to_what_one_process_gives(folder: Path, one_process: Path, strategy: str) -> None:
    two = run(folder, strategy, "-c", f"configs/strategy/{strategy}.yaml")
    weights, expected = (load_file(path / "export" / "model.safetensors") for path in (two, one_process))
    assert distance(weights, expected, {name: weight * 0 for name, weight in expected.items()}) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["zero2-cpu", "zero3-cpu", "fsdp2-cpu"])
def test_resumed_is_bitwise_uninterrupted_in_bf16(folder: Path, strategy: str) -> None:
    exports = []
    for name, stops in (("whole", ["6"]), ("resumed", ["4", "6"])):
        path = folder / f"{name}-{strategy}"
        words = [*options(folder, path, ("-c", "configs/loss/talr-step.yaml")), "-c", f"configs/strategy/{strategy}.yaml", "--trainer.precision", "bf16-mixed"]
        for number, stop in enumerate(stops):
            lit_talr("fit", *words, "--trainer.max_steps", stop, *(["--ckpt_path", "last"] if number else []))
        exports.append((path / "export" / "model.safetensors").read_bytes())
    assert exports[0] == exports[1]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["zero2-cpu", "zero3-cpu", "fsdp2-cpu"])
def test_the_starting_model_is_run_as_training_runs_it_in_bf16(folder: Path, strategy: str) -> None:
    """Before the first step p / p_0 is 1 for every token."""
    files = [word for split in ("train", "val", "test") for word in (f"--data.{split}", str(folder / f"{split}.jsonl"))]
    path = folder / f"ratio-{strategy}" / "run"
    lit_talr(
        *("fit", "-c", "configs/base.yaml", "-c", "configs/data/records.yaml", "-c", "configs/loss/iw-sft-token.yaml", *files, "--run", str(path)),
        *("-c", f"configs/strategy/{strategy}.yaml", "--trainer.precision", "bf16-mixed", "--trainer.max_steps", "1"),
        *("--model.pretrained", str(folder / "model"), "--model.tokenizer", str(folder / "tokenizer")),
    )
    metrics = read_values(path, "fit")
    assert metrics["train/loss"] == pytest.approx(metrics["train/nll"], rel=1e-6)


@pytest.mark.slow
def test_zero2_in_bf16_exports_its_fp32_weights_and_resumes(folder: Path) -> None:
    """What runs on GPUs: the engine's weights are bf16, its masters float32."""
    strategy = ["-c", "configs/strategy/zero2-cpu.yaml", "--trainer.precision", "bf16-mixed"]
    path = run(folder, "bf16", *strategy)
    assert json.loads((path / "export" / "config.json").read_text())["dtype"] == "float32"
    weights = load_file(path / "export" / "model.safetensors")
    assert any(not torch.equal(weight, weight.bfloat16().float()) for weight in weights.values())  # not rounded on the way
    assert len(read(path)) == 5


def slurm(node: int, port: int) -> dict[str, str]:
    """What SLURM tells a task of two nodes with one task each."""
    task = {"PROCID": str(node), "NODEID": str(node), "LOCALID": "0", "NTASKS": "2", "NTASKS_PER_NODE": "1"}
    job = {"NNODES": "2", "JOB_ID": "1", "JOB_NAME": "fit", "NODELIST": "localhost"}
    return {**{f"SLURM_{name}": value for name, value in {**task, **job}.items()}, "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "slurm"])
@pytest.mark.parametrize("strategy", ["zero2-cpu", "fsdp2-cpu"])
def test_two_nodes_as_the_page_on_running_starts_them(folder: Path, one_process: Path, launcher: str, strategy: str) -> None:
    """Two nodes of one rank each, both on this machine."""
    name = f"{launcher}-{strategy}"
    words = ["lit_talr", "fit", *options(folder, folder / name), "-c", f"configs/strategy/{strategy}.yaml", "--trainer.num_nodes", "2"]
    words += ["--trainer.devices", "1", "--trainer.max_steps", "6"]
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    rendezvous = ["--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-endpoint", f"localhost:{port}"]
    start = ["torch.distributed.run", *rendezvous, "-m", "--"] if launcher == "torchrun" else []
    nodes = []
    for node in range(2):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | (slurm(node, port) if launcher == "slurm" else {})
        command = [sys.executable, "-m", *start, *words]
        nodes.append(subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
    said = [node.communicate(timeout=200)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], "\n".join(text[-3000:] for text in said)
    weights, expected = (load_file(path / "export" / "model.safetensors") for path in (folder / name, one_process))
    assert distance(weights, expected, {name: weight * 0 for name, weight in expected.items()}) < 1e-5


@pytest.mark.slow
def test_general_abilities_are_scored_as_by_one_process(tmp_path: Path) -> None:
    """Before training, after it and in the test: the same answers to the same items, each once."""
    words = [
        "-c",
        "configs/experiment/lab_clinic.yaml",
        "--data.train_size",
        "16",
        "--data.val_size",
        "4",
        "--data.test_size",
        "4",
        "--trainer.max_epochs",
        "1",
    ]
    words += ["--model.optimizer.lr", "1e-4"]
    for name, strategy in (("one", []), ("two", ["-c", "configs/strategy/ddp-cpu.yaml"])):
        lit_talr("fit", *words, *strategy, "--run", str(tmp_path / name / "run"))
        lit_talr("test", "-c", str(tmp_path / name / "run" / "config.yaml"), "--ckpt_path", "last")
    for name in ("general-epoch-0", "general-base-test", "general-epoch-1", "general-test"):
        one, two = ((tmp_path / ranks / "run" / "answers" / f"{name}.jsonl").read_text().splitlines() for ranks in ("one", "two"))
        assert len(one) == len(two) and sum(first != second for first, second in zip(one, two, strict=True)) <= len(one) // 50, name  # of near ties
    found = [read_values(tmp_path / name / "run", "test") for name in ("one", "two")]
    assert found[0]["general/drop"] == pytest.approx(found[1]["general/drop"], abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp-cpu", "zero2-cpu", "fsdp2-cpu"])
def test_a_callback_that_fails_on_all_ranks_costs_no_step(folder: Path, strategy: str) -> None:
    """And the same line goes on to what an uninterrupted run exports."""
    words = ["-c", f"configs/strategy/{strategy}.yaml", "--trainer.max_steps", "6", "--ckpt_path", "auto"]
    failing, whole = folder / f"failing-{strategy}", folder / f"whole-{strategy}"
    fail = json.dumps({"class_path": "tests.cli.test_auto.Fail", "init_args": {"where": "validation"}})
    with pytest.raises(AssertionError, match="the validation has failed"):
        lit_talr("fit", *options(folder, failing), *words, "--trainer.callbacks+", fail)
    assert [path.name for path in (failing / "checkpoints").glob("last-*")] == ["last-step=3.ckpt"]
    for run in (failing, whole):
        lit_talr("fit", *options(folder, run), *words)
    one, other = ((run / "export" / "model.safetensors").read_bytes() for run in (failing, whole))
    assert one == other
