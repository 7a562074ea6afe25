"""A run whose page has all that is awkward in texts."""

import json
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
import torch

from lit_talr.cli.command_line import main
from lit_talr.modeling.loading import load_model
from tests.helpers.fits import QWEN3, write_data
from tests.helpers.tiny import save_tokenizer

EVIL = "</script><script>document.title='broken'</script><!-- <img src=x onerror=alert(1)> {{js}}"
ROWS = [
    {"prompt": "Say é.", "response": "é\n😀 ok"},
    {"prompt": EVIL, "response": f"{EVIL}\t."},
    {"prompt": "long " * 60, "response": "  x"},
    {"prompt": "four", "response": "abab"},
]


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `fit` leaves, as far as the page reads it: the configuration that it would keep, and an export; nobody writes into it."""
    folder = tmp_path_factory.mktemp("heatmap")
    write_data(folder)
    (folder / "val.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    files = [word for split in ("train", "val", "test") for word in (f"--data.{split}", str(folder / f"{split}.jsonl"))]
    words = ["-c", "configs/base.yaml", "-c", "configs/data/records.yaml", "-c", "configs/loss/talr.yaml", *files, "--model.optimizer.lr", "3e-2"]
    words += ["--model.pretrained", str(folder / "model"), "--model.tokenizer", str(folder / "tokenizer"), "--run", str(folder / "run")]
    with pytest.raises(SystemExit), redirect_stdout(StringIO()) as printed:
        main(["fit", *words, "--print_config"])
    save_tokenizer(folder / "run" / "export", "qwen2")
    torch.manual_seed(1)
    tuned = load_model(None, None, QWEN3, 259, None)
    tuned.get_input_embeddings().weight.data.mul_(40)  # of the head too: what it expects is far from uniform
    tuned.save_pretrained(folder / "run" / "export")
    (folder / "run" / "config.yaml").write_text(printed.getvalue())
    return folder / "run"
