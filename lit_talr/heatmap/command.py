"""``lit-talr heatmap``: a run in, a page of its tokens before and after out."""

from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from transformers import PreTrainedTokenizerBase

from lit_talr.data.example import Split
from lit_talr.data.tokenizer import load_tokenizer
from lit_talr.heatmap.page import page
from lit_talr.heatmap.rows import ShownRow, read_rows
from lit_talr.heatmap.run import Model, read_run
from lit_talr.heatmap.scores import TokenScores, score
from lit_talr.modeling.backbone import Backbone
from lit_talr.modeling.loading import load_model
from lit_talr.utils.files import write_text
from lit_talr.utils.weight_files import model_folder


def heatmap(
    run: Path,
    base: str | None = None,
    tuned: str | None = None,
    split: Split = "val",
    rows: list[int] | None = None,
    num_examples: int = 8,
    out: Path | None = None,
) -> None:
    """Show every supervised token of some examples, coloured by its probability before and after a run, side by side: ``lit-talr heatmap RUN``.

    The page works offline. A token's probability, rank, entropy and TALR weight under both models appear where the pointer, or the keyboard, is on it.
    Both models are run in float32, one after the other, on a GPU where there is one.

    Args:
        run: The folder of a run: its config.yaml names the data and the starting model, its export/ is the tuned model.
        base: Folder or hub name of another model in place of the starting one; it must have the run's tokenizer.
        tuned: Likewise in place of the export.
        split: Whose examples are shown.
        rows: Which of them, such as [0,3]: numbers from 0 as in answers/*.jsonl of the run; rows that are left out for their length are not counted.
        num_examples: The first so many, where no rows are named.
        out: The page, a name that ends in .html; heatmap.html in the run's folder where it is left out.

    Raises:
        ValueError: For a folder that is no run or has no export, a starting model that is not there, other tokens in one of the models, a row that is not
            there or named twice, a token without a finite loss, and a name that does not end in .html.
    """
    out = run / "heatmap.html" if out is None else out
    if out.suffix != ".html" or out.is_dir():
        raise ValueError(f"`out` must be the name of the page, such as heatmap.html, got {out}.")
    made = read_run(run, base, tuned)
    shown = read_rows(made.data, split, rows, num_examples)
    tokenizer = made.data.encoder.tokenizer
    folders = [checked(model, tokenizer) for model in (made.base, made.tuned)]  # both, before either is run
    scores = [score_model(model, folder, shown) for model, folder in zip((made.base, made.tuned), folders, strict=True)]
    write_text(out, page(made, split, shown, tokenizer, *scores))
    number = len(scores[0].nll)
    Console(soft_wrap=True).print(f"{out}: {number:,} tokens of {len(shown)} example(s) under both models", markup=False, highlight=False)


def checked(model: Model, tokenizer: PreTrainedTokenizerBase) -> Path:
    """The folder of a model; one that brings a tokenizer of its own must have the run's tokens.

    Raises:
        ValueError: If there is none, or an id of the rows means something else to it.
    """
    folder = model_folder(model.name, model.revision)
    there = tokens_of(load_tokenizer(str(folder))) if model.own_tokenizer else tokens_of(tokenizer)
    if (here := tokens_of(tokenizer)) != there:
        index = min(index for index in here.keys() | there.keys() if here.get(index) != there.get(index))
        raise ValueError(
            f"`{model.option}`: {model.name} has another tokenizer than the run: token {index} is {there.get(index)!r}, in the run {here.get(index)!r}; "
            "base and tuned can only be compared token by token if they share one."
        )
    return folder


def tokens_of(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    return {index: token for token, index in tokenizer.get_vocab().items()}


def score_model(model: Model, folder: Path, rows: Sequence[ShownRow]) -> TokenScores:
    """Load a model, run it over the rows, and let go of it.

    Raises:
        ValueError: If it gives no finite loss.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    backbone = Backbone(load_model(str(folder), None, None, 0, None)).to(device).eval()
    scores = score(backbone, [row.encoded for row in rows], f"Scoring under {model.option}")
    if not scores.nll.isfinite().all():
        raise ValueError(f"`{model.option}`: {model.name} gives tokens of these rows a loss that is no finite number; its weights are broken.")
    return scores
