"""How probable the supervised tokens of real rows are under a real model before any training (the paper's figure 3).

    python -m benchmarks.real_tokens models/smollm2-135m data

Each row runs alone, in fp32. It prints a table and draws docs/images/real_tokens.png.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from lit_talr.data.encoding import Encoding
from lit_talr.domains import ESCI, MedCalc
from lit_talr.domains.base import DomainDataModule
from lit_talr.heatmap.rows import read_rows
from lit_talr.heatmap.scores import score_tokens, weigh_tokens
from lit_talr.losses import TALR
from lit_talr.modeling.backbone import Backbone
from lit_talr.modeling.loading import load_model

BELOW = (0.01, 0.1, 0.2, 0.5)
"""Probabilities below which tokens are counted; the paper calls those below .2 hard."""
FIGURE = Path(__file__).parents[1] / "docs" / "images" / "real_tokens.png"
ENCODING = Encoding(max_length=2048, too_long="truncate_prompt")


def domains(model: str, data: Path) -> dict[str, DomainDataModule]:
    medcalc = {"train": str(data / "medcalc" / "train_subset.parquet"), "test": str(data / "medcalc" / "test_v1.0.parquet")}
    pairs = str(data / "esci" / "esci_us_pairs.parquet")
    return {
        "MedCalc, reasoning and answer": MedCalc(**medcalc, target="cot", tokenizer=model, encoding=ENCODING),
        "ESCI, the class alone": ESCI(train=pairs, test=pairs, target="label", tokenizer=model, encoding=ENCODING),
    }


def statistics(name: str, nll: torch.Tensor, lengths: Sequence[int]) -> Iterator[str]:
    """The cells of a set of tokens, whose rows have so many each; TALR's weights are those of all rows as one micro-batch."""
    probability = (-nll).exp()
    weights, temperature = weigh_tokens(nll, lengths)
    yield from (name, str(len(lengths)), f"{len(nll):,}", f"{nll.mean():.3f}")
    yield from (f"{(probability < bound).float().mean():.3f}" for bound in BELOW)
    yield from (f"{temperature:.3f}", f"{weights.mean():.3f}", f"{(weights <= TALR().floor).float().mean():.3f}")


def draw(found: dict[str, torch.Tensor], file: Path) -> None:
    """Draw a histogram of the probabilities for each set."""
    figure = Figure(figsize=(8, 3), layout="constrained")
    for axes, (name, nll) in zip(figure.subplots(1, len(found), sharey=True), found.items(), strict=True):
        axes.hist((-nll).exp().numpy(), bins=np.linspace(0, 1, 21).tolist(), weights=np.full(len(nll), 1 / len(nll)), color="#4477aa", edgecolor="white")
        axes.set(title=name, xlabel="probability of a supervised token", xlim=(0, 1))
        axes.grid(axis="y", alpha=0.3)
    figure.axes[0].set_ylabel("share of tokens")
    figure.savefig(file, dpi=150)


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="model folder, such as benchmarks.real_model makes")
    parser.add_argument("data", type=Path, help="folder with medcalc/ and esci/")
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--figure", type=Path, default=FIGURE)
    arguments = parser.parse_args(words)
    backbone = Backbone(load_model(arguments.model, None, None, 0, None)).eval()
    print(f"| rows | number | tokens | mean NLL | {' | '.join(f'p < {bound:g}' for bound in BELOW)} | temperature | mean weight | at the floor |")
    print(f"|{'---|' * (7 + len(BELOW))}")
    found = {}
    for name, data in domains(arguments.model, arguments.data).items():
        rows = [row.encoded for row in read_rows(data, "train", None, arguments.rows)]
        found[name] = score_tokens(backbone, rows, name).nll
        print(f"| {' | '.join(statistics(name, found[name], [int(row.supervised.sum()) for row in rows]))} |", flush=True)
    draw(found, arguments.figure)


if __name__ == "__main__":
    main()
