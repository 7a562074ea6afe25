"""What a run's ``config.yaml`` says of its data and of the model that it started from."""

from pathlib import Path
from typing import Any, NamedTuple

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from lit_talr.domains.base import DomainDataModule
from lit_talr.report.runs import loss_name, scientific


class Model(NamedTuple):
    """A model that the page is of."""

    option: str  # what names it on the command line
    name: str  # folder or hub name
    revision: str | None
    title: str  # on the page
    own_tokenizer: bool  # it has one, which has to be compared with that of the data


class TunedRun(NamedTuple):
    """A run, as far as the page needs it."""

    data: DomainDataModule
    base: Model
    tuned: Model


def read_run(folder: Path, base: str | None = None, tuned: str | None = None) -> TunedRun:
    """The data of a run, and its two models, or others in their place.

    Titles have no whole path in them: a page may be shared, and that of a run that was moved stays what it is.

    Raises:
        ValueError: For a folder without the ``config.yaml`` of a fit, a run of random weights without ``base``, and one without an export and ``tuned``.
    """
    config = read_config(folder)
    model = config["model"]
    pretrained, revision = model.get("pretrained"), model.get("revision")
    if base is None and pretrained is None:
        raise ValueError(f"{folder} began with random weights, which are not kept; name a model to compare with as `--base`.")
    export = folder / "export"
    if tuned is None and not (export / "config.json").is_file():
        raise ValueError(
            f"{folder} has no export/, the tuned model that HFExport writes as `fit` ends; make it of a checkpoint with "
            f"`lit-talr export --ckpt {folder} --out {export}`, or name a model as `--tuned`."
        )
    named = model.get("tokenizer")
    data = read_data(folder, config["data"], named or pretrained, None if named else revision)
    first = Model("base", base, None, short(base), True) if base else Model("base", pretrained, revision, short(pretrained), False)
    second = Model("tuned", tuned, None, short(tuned), True) if tuned else Model("tuned", str(export), None, title(model), True)
    return TunedRun(data, first, second)


def read_config(folder: Path) -> dict[str, Any]:
    """``config.yaml`` of a fit.

    Raises:
        ValueError: If there is none, or it is not of one.
    """
    file = folder / "config.yaml"
    if not file.is_file():
        raise ValueError(f"{folder} has no config.yaml, so it is no run; give the folder of one, `--run` of its `lit-talr fit`.")
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not YAML ({error}).") from error
    parts = [config.get(name) for name in ("model", "data")] if isinstance(config, dict) else []
    if not parts or not all(isinstance(part, dict) for part in parts) or "class_path" not in config["data"]:
        raise ValueError(f"{file} is not the configuration of a `lit-talr fit`: it needs `model` and `data`; give the folder of a run.")
    return config


def read_data(folder: Path, section: dict[str, Any], tokenizer: str | None, revision: str | None) -> DomainDataModule:
    """The data module, with the tokenizer that the command line links into it.

    Raises:
        ValueError: If its class or one of its options is not there (any more).
    """
    if tokenizer is None:
        raise ValueError(f"{folder / 'config.yaml'} names neither `model.pretrained` nor `model.tokenizer`, so nothing says what its tokens are.")
    arguments = {**(section.get("init_args") or {}), "tokenizer": tokenizer, "tokenizer_revision": revision}
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(DomainDataModule, "data", required=True)
    try:
        parsed = parser.parse_object({"data": {"class_path": section["class_path"], "init_args": arguments}})
    except ArgumentError as error:
        raise ValueError(str(error)) from error
    return parser.instantiate(parsed).data


def title(model: dict[str, Any]) -> str:
    """How the run's own tuned model is called: by its remedy and rate."""
    loss, optimizer = model.get("loss"), model.get("optimizer") or {}
    rate = (optimizer.get("init_args") or {}).get("lr")
    words = [loss_name(loss) if isinstance(loss, dict) and "class_path" in loss else None, "with LoRA" if model.get("lora") else None]
    words.append(f"at rate {scientific(rate)}" if isinstance(rate, float) else None)
    return " ".join(word for word in words if word) or "the run's export"


def short(name: str) -> str:
    """A hub name as it is; of a folder its last two parts."""
    return "/".join(Path(name).parts[-2:])
