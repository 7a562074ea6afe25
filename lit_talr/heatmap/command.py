"""``lit-talr heatmap``: reads a run, writes a page of its tokens under the base and the tuned model."""

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
from lit_talr.heatmap.scores import TokenScores, score_tokens
from lit_talr.modeling.arithmetic import loaded_in
from lit_talr.modeling.backbone import Backbone
from lit_talr.modeling.loading import load_model
from lit_talr.utils.files import check_writable, write_text
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
    """Show every supervised token of some examples, coloured by its probability under the base and the tuned model: ``lit-talr heatmap RUN``.

    The page works offline. Pointer or keyboard on a token show its probability, rank, entropy and TALR weight under both models.
    Both models are run in the arithmetic of the run's scores (``model.arithmetic``), one after the other, on a GPU where there is one.

    Args:
        run: The folder of a run: its config.yaml names the data and the base model, its export/ is the tuned model.
        base: Folder or hub name of another base model; it must have the run's tokenizer.
        tuned: Folder or hub name of another tuned model; likewise.
        split: The split of the examples.
        rows: Row numbers from 0, such as [0,3], as in answers/*.jsonl of the run; rows that are left out for their length are not counted.
        num_examples: How many rows from the first, where ``rows`` is left out.
        out: The page, a name that ends in .html; heatmap.html in the run's folder where it is left out.

    Raises:
        ValueError: For a folder that is no run or has no export, a missing base model, a model with other tokens, a row that does not exist or is
            named twice, a token without a finite loss, and a name that does not end in .html.
    """
    out = run / "heatmap.html" if out is None else out
    if out.suffix != ".html" or out.is_dir():
        raise ValueError(f"`out` must be the name of the page, such as heatmap.html, got {out}.")
    tuned_run = read_run(run, base, tuned)
    shown = read_rows(tuned_run.data, split, rows, num_examples)
    tokenizer = tuned_run.data.encoder.tokenizer
    models = (tuned_run.base, tuned_run.tuned)
    folders = [find_model(model, tokenizer) for model in models]  # both, before either is run
    check_writable(out.parent)
    scores = [score_model(model, folder, shown, tuned_run.arithmetic) for model, folder in zip(models, folders, strict=True)]
    write_text(out, page(tuned_run, split, shown, tokenizer, *scores))
    count = len(scores[0].nll)
    Console(soft_wrap=True).print(
        f"{out}: {count:,} tokens of {len(shown)} example(s) under both models, in {tuned_run.arithmetic}", markup=False, highlight=False
    )


def find_model(model: Model, tokenizer: PreTrainedTokenizerBase) -> Path:
    """The folder of a model; refuses one whose own tokenizer has other tokens than the run's."""
    folder = model_folder(model.name, model.revision)
    expected = vocabulary(tokenizer)
    tokens = vocabulary(load_tokenizer(str(folder))) if model.own_tokenizer else expected
    if different := sorted(index for index in expected.keys() | tokens.keys() if expected.get(index) != tokens.get(index)):
        index = different[0]
        raise ValueError(
            f"`{model.option}`: {model.name} has another tokenizer than the run: token {index} is {tokens.get(index)!r}, in the run {expected.get(index)!r}; "
            "base and tuned can only be compared token by token if they share one."
        )
    return folder


def vocabulary(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    return {index: token for token, index in tokenizer.get_vocab().items()}


def score_model(model: Model, folder: Path, rows: Sequence[ShownRow], arithmetic: str) -> TokenScores:
    """Load a model, run it over the rows in an arithmetic, and release it; refuses a loss that is not finite."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype, autocast = loaded_in(arithmetic)
    backbone = Backbone(load_model(str(folder), None, None, 0, None, dtype)).to(device).eval()
    with torch.autocast(device, autocast, enabled=autocast is not None):
        scores = score_tokens(backbone, [row.encoded for row in rows], f"Scoring under {model.option}")
    if not scores.nll.isfinite().all():
        raise ValueError(f"`{model.option}`: {model.name} gives tokens of these rows a loss that is no finite number; its weights are broken.")
    return scores
