"""Every remedy from one base model on the same rows, 20 steps each, in one table:

python -m benchmarks.remedies --tokenizer FOLDER --train FILE --test FILE --out runs/remedies [--only talr,lora] [more options of lit-talr fit]

The base model is trained first, by Standard from random weights (``configs/model/small.yaml``). Then each file of ``configs/loss``, and LoRA, is
fitted and tested through the command line at one rate, and Standard's result is merged half-way with the base model (Wise-FT). A remedy that fails is a
row of its own and exit code 1.
"""

import argparse
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.progress import track

from lit_talr.cli.command_line import main as lit_talr
from lit_talr.utils.score import read_scores

CONFIGS = Path(__file__).parents[1] / "configs"
HEAD = "| remedy | val/nll | test/score | mean weight | p > .2 of the probe |\n|---|---|---|---|---|"


def run(log: Path, *words: str) -> None:
    """Run a command of lit-talr in this process; its output goes to a file."""
    with log.open("a", encoding="utf-8") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        print("$ lit-talr", *words)
        lit_talr(words)


def row(name: str, folder: Path, verb: str = "fit") -> str:
    scores = read_scores(folder / "metrics.json")
    cells = [f"{scores[verb]['val/nll'].value:.4f}", f"{scores['test']['test/score'].value:.3f}"]
    table = folder / "token_probability.parquet"
    if table.is_file():
        found = pd.read_parquet(table).query("group == 'all'")
        train, probe = (found[found["set"] == part].iloc[-1:] for part in ("train", "probe"))
        cells += ["-" if train.empty else f"{train['weight'].item():.3f}", f"{probe['share_above'].item():.3f}"]
    else:
        cells += ["-", "-"]
    return f"| {name} | {' | '.join(cells)} |"


def compare(arguments: argparse.Namespace, more: Sequence[str]) -> bool:
    """Print the table; return whether every remedy ran."""
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=False)
    rows = ["--data.train", str(arguments.train), "--data.test", str(arguments.test)]
    shared = ["-c", "configs/base.yaml", "-c", "configs/model/small.yaml", "-c", "configs/data/medcalc.yaml", *rows, *more]
    standard = ["-c", "configs/loss/standard.yaml"]
    start = ["--model.architecture", "null", "--model.pretrained", str(out / "base" / "export")]
    log = out / "log.txt"
    random = ["--model.tokenizer", str(arguments.tokenizer), "--trainer.max_steps", str(arguments.base_steps), "--run", str(out / "base")]
    run(log, "fit", *shared, *standard, *random)
    run(log, "test", "-c", str(out / "base" / "config.yaml"), "--ckpt_path", "last")
    lines = [HEAD, row("base model", out / "base")]
    losses = [path.stem for path in sorted((CONFIGS / "loss").glob("*.yaml"))]
    remedies = {"standard": standard} | {name: ["-c", f"configs/loss/{name}.yaml"] for name in losses}
    remedies |= {"lora": [*standard, "-c", "configs/adapter/lora.yaml"]}
    chosen = {name: words for name, words in remedies.items() if not arguments.only or name in arguments.only.split(",")}
    failed = []
    for name, words in track(chosen.items(), "Remedies", console=Console(stderr=True)):
        folder = out / name
        try:
            run(log, "fit", *shared, *start, *words, "--trainer.max_steps", str(arguments.steps), "--run", str(folder))
            run(log, "test", "-c", str(folder / "config.yaml"), "--ckpt_path", "last")
            lines.append(row(name, folder))
        except SystemExit:
            failed.append(name)
            lines.append(f"| {name} | failed, see {log} | | | |")
    if "standard" in chosen and "standard" not in failed:
        merged = out / "merged"
        run(log, "merge", "--base", str(out / "base" / "export"), "--tuned", str(out / "standard" / "export"), "--out", str(merged))
        wise = [*shared, *standard, "--model.architecture", "null", "--model.pretrained", str(merged), "--run", str(out / "wise-ft")]
        for verb in ("validate", "test"):
            run(log, verb, *wise)
        lines.append(row("Wise-FT, alpha .5", out / "wise-ft", "validate"))
    print("\n".join(lines))
    return not failed


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder; made by benchmarks/tokenizer.py from any text")
    parser.add_argument("--train", type=Path, required=True, help="MedCalc-Bench rows")
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument("--base-steps", type=int, default=60)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--only", default="", help="names with commas between them")
    arguments, more = parser.parse_known_args(words)
    if not compare(arguments, more):
        sys.exit(1)


if __name__ == "__main__":
    main()
