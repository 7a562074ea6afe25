"""The general benchmarks of the paper on a real model: by ``LMEval``, and by the command of lm-evaluation-harness, response by response.

    python -m benchmarks.real_model models/smollm2-135m
    python -m benchmarks.sentence_data .venv/nltk_data
    python -m benchmarks.general models/smollm2-135m data --out runs/general

Both read the same model folder, in fp32, eight requests at once. IFEval's prompts go through the chat template, since its instructions are a user's; GSM8K
and HumanEval are the harness's plain text. What is done already in the folder is not done again. It prints a table of both.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lit_talr.cli.command_line import main as lit_talr
from lit_talr.tasks.harness import SHIPPED, VERSION
from lit_talr.utils.files import read_json, read_json_lines, write_json


class Part(NamedTuple):
    """Tasks that are asked in one way."""

    metrics: dict[str, str]  # the main metric of each task
    chat: bool


PARTS = {
    "chat": Part({"ifeval_local": "prompt_level_strict_acc,none"}, chat=True),
    "plain": Part({"gsm8k_local": "exact_match,flexible-extract", "humaneval_local": "pass@1,create_test"}, chat=False),
}
BATCH = 8


class Answers(NamedTuple):
    """What one side has recorded."""

    responses: dict[tuple[str, int], Any]  # by task and item
    scores: dict[str, dict[str, float]]  # all metrics by task
    seconds: float


def ours(part: str, model: Path, data: Path, out: Path, limit: int) -> Answers:
    """``lit-talr test`` of the model folder."""
    folder = out / f"{part}-lit-talr"
    if not (folder / "seconds.json").is_file():
        tasks = {name: {"metric": metric, "limit": limit} for name, metric in PARTS[part].metrics.items()}
        options = {"data_folder": str(data), "batch_size": BATCH, "chat_template": PARTS[part].chat, "allow_code_execution": True, "tasks": tasks}
        callbacks = json.dumps([{"class_path": "Summary"}, {"class_path": "LMEval", "init_args": options}])
        pairs = str(data / "esci" / "esci_us_pairs.parquet")
        words = ["-c", "configs/experiment/real_esci.yaml", "--model.pretrained", str(model), "--data.train", pairs, "--data.test", pairs]
        words += ["--data.max_test_rows", "1", "--trainer.callbacks", callbacks]
        begun = time.monotonic()
        with (out / "log.txt").open("a", encoding="utf-8") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
            lit_talr(["test", *words, "--run", str(folder)])
        write_json(folder / "seconds.json", {"seconds": time.monotonic() - begun})
    rows = read_json_lines(folder / "answers" / "general-test.jsonl")
    return Answers(
        {(row["task"], row["doc_id"]): row["resps"] for row in rows},
        read_json(folder / "lm_eval.json")["results"]["test"]["results"],
        read_json(folder / "seconds.json")["seconds"],
    )


def theirs(part: str, model: Path, data: Path, out: Path, limit: int) -> Answers:
    """The harness's own command on the same folder."""
    folder = (out / f"{part}-harness").resolve()
    if not (folder / "seconds.json").is_file():
        command = ["-m", "lm_eval", "run", "--model", "hf", "--model_args", f"pretrained={model.resolve()},dtype=float32", "--device", "cpu"]
        command += ["--batch_size", str(BATCH), "--tasks", ",".join(PARTS[part].metrics), "--include_path", str(SHIPPED), "--limit", str(limit)]
        command += ["--log_samples", "--output_path", str(folder), "--confirm_run_unsafe_code"]
        command += ["--apply_chat_template", "--fewshot_as_multiturn", "true"] if PARTS[part].chat else []
        begun = time.monotonic()
        with (out / "log.txt").open("a", encoding="utf-8") as file:
            paths = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
            subprocess.run([sys.executable, *command], cwd=data, check=True, env=paths, stdout=file, stderr=file)
        write_json(folder / "seconds.json", {"seconds": time.monotonic() - begun})
    responses = {}
    for file in folder.rglob("samples_*.jsonl"):
        task = file.name.removeprefix("samples_").rsplit("_", 1)[0]
        responses |= {(task, row["doc_id"]): row["resps"] for row in read_json_lines(file)}
    (results,) = folder.rglob("results_*.json")
    return Answers(responses, read_json(results)["results"], read_json(folder / "seconds.json")["seconds"])


def table(found: dict[str, tuple[Answers, Answers]]) -> Iterator[str]:
    yield "| task | prompts | metric | `LMEval` | the harness's command | equal responses |\n|---|---|---|---|---|---|"
    for part, (here, there) in found.items():
        for task in PARTS[part].metrics:
            items = [key for key in here.responses if key[0] == task]
            equal = sum(here.responses[key] == there.responses[key] for key in items)
            for metric, value in here.scores[task].items():
                if "stderr" not in metric:
                    way = "chat template" if PARTS[part].chat else "plain text"
                    yield f"| `{task}` | {way} | `{metric}` | {value:.3f} | {there.scores[task][metric]:.3f} | {equal} of {len(items)} |"


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="model folder, such as benchmarks.real_model makes")
    parser.add_argument("data", type=Path, help="folder with esci/, ifeval/, gsm8k/ and humaneval/ (docs/benchmarks.md)")
    parser.add_argument("--out", type=Path, required=True, help="folder; what it holds is not done again")
    parser.add_argument("--limit", type=int, default=50, help="items of each task")
    arguments = parser.parse_args(words)
    arguments.out.mkdir(parents=True, exist_ok=True)
    place = (arguments.model, arguments.data, arguments.out, arguments.limit)
    found = {part: (ours(part, *place), theirs(part, *place)) for part in PARTS}
    print(f"lm-evaluation-harness {VERSION}, {arguments.limit} items of each task, batches of {BATCH}.\n")
    print("\n".join(table(found)))
    for part, (here, there) in found.items():
        print(f"\n{', '.join(PARTS[part].metrics)}: {here.seconds / 60:.0f} minutes here, {there.seconds / 60:.0f} by the harness's command.")


if __name__ == "__main__":
    main()
