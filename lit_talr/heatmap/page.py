"""The page: one HTML file with its texts and numbers inside, which needs no network."""

from collections.abc import Sequence
from itertools import accumulate, groupby
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lit_talr import __version__
from lit_talr.data.example import Split
from lit_talr.heatmap.rows import ShownRow
from lit_talr.heatmap.run import Model, TunedRun
from lit_talr.heatmap.scores import TokenScores, weigh_tokens
from lit_talr.heatmap.tokens import Piece, pieces, plain
from lit_talr.losses import TALR
from lit_talr.report.page import assemble_page

EASY = 0.2
"""The probability below which the paper's figure 3 calls a token hard."""


class Column(NamedTuple):
    """A model's numbers on the page."""

    model: Model
    numbers: dict[str, Tensor]  # by name, one value for each token
    temperature: float


def page(run: TunedRun, split: Split, rows: Sequence[ShownRow], tokenizer: PreTrainedTokenizerBase, base: TokenScores, tuned: TokenScores) -> str:
    """The page as a function of texts and numbers alone: the same ones give the same bytes."""
    counts = [int(row.encoded.supervised.sum()) for row in rows]
    columns = {}
    for name, model, scores in (("base", run.base, base), ("tuned", run.tuned, tuned)):
        weights, temperature = weigh_tokens(scores.nll, counts)
        columns[name] = Column(model, {**scores._asdict(), "weight": weights}, temperature)
    data = {
        "version": __version__,
        "domain": type(run.data).__name__,
        "split": split,
        "arithmetic": run.arithmetic,
        "easy": EASY,
        "floor": TALR().floor,
        "models": {name: summarize(column) for name, column in columns.items()},
        "examples": [show_example(row, tokenizer, columns, done) for row, done in zip(rows, accumulate(counts, initial=0), strict=False)],
    }
    return assemble_page(Path(__file__).parent, {}, data)


def summarize(column: Column) -> dict[str, Any]:
    """The numbers at the top of the page."""
    nll = column.numbers["nll"].double()
    probability = (-nll).exp()
    means: dict[str, Tensor | float] = {
        "probability": probability.mean(),
        "hard": (probability < EASY).double().mean(),
        "perplexity": nll.mean().exp(),
        "first": (column.numbers["rank"] == 1).double().mean(),
        "entropy": column.numbers["entropy"].double().mean(),
        "weight": column.numbers["weight"].double().mean(),
        "temperature": column.temperature,
    }
    return {"title": column.model.title, "tokens": len(nll), **{name: rounded(float(value)) for name, value in means.items()}}


def rounded(value: float) -> float:
    """Six digits: enough for a reader, and fewer than another order of additions would change."""
    return value if isinstance(value, int) else float(f"{value:.6g}")


def show_example(row: ShownRow, tokenizer: PreTrainedTokenizerBase, columns: dict[str, Column], done: int) -> dict[str, Any]:
    """A row's text in its order: context as one text, supervised tokens one by one, ``done`` of which were in earlier rows."""
    ids, parts, start = row.encoded.input_ids.tolist(), [], 0
    for supervised, group in groupby(row.encoded.supervised.tolist()):
        stop = start + len(list(group))
        if supervised:
            texts = pieces(tokenizer, ids[start:stop], ids[max(0, start - 1) : start])
            part: dict[str, Any] = {"tokens": [show_piece(piece) for piece in texts]}
            for name, column in columns.items():
                part[name] = {key: [rounded(value) for value in numbers[done : done + len(texts)].tolist()] for key, numbers in column.numbers.items()}
            parts.append(part)
            done += len(texts)
        else:
            parts.append({"text": plain(tokenizer, ids[start:stop])})
        start = stop
    return {"number": row.number, "parts": parts}


def show_piece(piece: Piece) -> str | list[Any]:
    """A text; for a part of a character also its number, the number of parts, and the character."""
    return piece.text if piece.parts == 1 else list(piece)
