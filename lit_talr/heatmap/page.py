"""The page: one HTML file with its texts and numbers inside, which needs no network."""

from collections.abc import Sequence
from itertools import accumulate, groupby, pairwise
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lit_talr import __version__
from lit_talr.data.example import Split
from lit_talr.heatmap.rows import ShownRow
from lit_talr.heatmap.run import Model, TunedRun
from lit_talr.heatmap.scores import TokenScores, talr_weights
from lit_talr.heatmap.tokens import Piece, pieces, plain
from lit_talr.losses import TALR
from lit_talr.report.page import embed

FOLDER = Path(__file__).parent
EASY = 0.2
"""The probability that the paper's figure 3 tells hard tokens by."""


def page(run: TunedRun, split: Split, rows: Sequence[ShownRow], tokenizer: PreTrainedTokenizerBase, base: TokenScores, tuned: TokenScores) -> str:
    """The page as a function of texts and numbers alone: the same ones give the same bytes."""
    counts = [int(row.encoded.supervised.sum()) for row in rows]
    columns = {"base": Column(run.base, base, counts), "tuned": Column(run.tuned, tuned, counts)}
    spans = pairwise(accumulate(counts, initial=0))
    data = {
        "version": __version__,
        "domain": type(run.data).__name__,
        "split": split,
        "easy": EASY,
        "floor": TALR().floor,
        "models": {name: column.summary() for name, column in columns.items()},
        "examples": [example(row, tokenizer, {name: column.part(*span) for name, column in columns.items()}) for row, span in zip(rows, spans, strict=True)],
    }
    text = (FOLDER / "page.html").read_text(encoding="utf-8")
    css, js = ((FOLDER / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    for name, part in {"css": css, "js": js, "data": embed(data)}.items():  # the data last: nothing in them is taken for a place to fill
        text = text.replace("{{" + name + "}}", part)
    return text


class Column:
    """A model's numbers on the page."""

    def __init__(self, model: Model, scores: TokenScores, counts: Sequence[int]) -> None:
        self.model, self.scores = model, scores
        self.weights, self.temperature = talr_weights(scores.nll, counts)

    def summary(self) -> dict[str, Any]:
        """What stands on top."""
        nll = self.scores.nll.double()
        probability = (-nll).exp()
        means = {
            "probability": probability.mean(),
            "hard": (probability < EASY).double().mean(),
            "perplexity": nll.mean().exp(),
            "first": (self.scores.rank == 1).double().mean(),
            "entropy": self.scores.entropy.double().mean(),
            "weight": self.weights.double().mean(),
        }
        numbers = {name: rounded(float(value)) for name, value in means.items()}
        return {"title": self.model.title, "tokens": len(nll), **numbers, "temperature": rounded(self.temperature)}

    def part(self, start: int, stop: int) -> dict[str, list[float]]:
        """The numbers of some tokens."""
        columns: dict[str, Tensor] = {**self.scores._asdict(), "weight": self.weights}
        return {name: [rounded(value) for value in column[start:stop].tolist()] for name, column in columns.items()}


def rounded(value: float) -> float:
    """Six digits: what a reader can use, and less than what another order of additions would change."""
    return value if isinstance(value, int) else float(f"{value:.6g}")


def example(row: ShownRow, tokenizer: PreTrainedTokenizerBase, numbers: dict[str, dict[str, list[float]]]) -> dict[str, Any]:
    """A row's text in its order: what is only read as one text, what is learned token by token."""
    ids, parts, done, place = row.encoded.input_ids.tolist(), [], 0, 0
    for learned, group in groupby(row.encoded.supervised.tolist()):
        stop = place + len(list(group))
        if learned:
            texts = pieces(tokenizer, ids[place:stop], ids[max(0, place - 1) : place])
            end = done + len(texts)
            parts.append({"tokens": [shown(piece) for piece in texts], **{name: cut(columns, done, end) for name, columns in numbers.items()}})
            done = end
        else:
            parts.append({"text": plain(tokenizer, ids[place:stop])})
        place = stop
    return {"number": row.number, "parts": parts}


def cut(columns: dict[str, list[float]], start: int, stop: int) -> dict[str, list[float]]:
    return {name: values[start:stop] for name, values in columns.items()}


def shown(piece: Piece) -> str | list[Any]:
    """A text; of a token that is a part of a character also which one, of how many, and of what."""
    return piece.text if piece.parts == 1 else list(piece)
