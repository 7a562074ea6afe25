"""A run's data and its two models, as its ``config.yaml`` names them."""

from pathlib import Path
from typing import Any, NamedTuple

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from lit_talr.domains.base import DomainDataModule
from lit_talr.modeling.arithmetic import name_arithmetic
from lit_talr.report.runs import remedy_name, scientific
from lit_talr.utils.files import run_around


class Model(NamedTuple):
    """A model on the page."""

    option: str  # names it on the command line
    name: str  # folder or hub name
    revision: str | None
    title: str  # on the page
    own_tokenizer: bool  # it has one, which has to be compared with that of the data


class TunedRun(NamedTuple):
    """The parts of a run that the page shows."""

    data: DomainDataModule
    base: Model
    tuned: Model
    arithmetic: str  # of the run's scores, in words


def read_run(folder: Path, base: str | None = None, tuned: str | None = None) -> TunedRun:
    """Read the data of a run, and its two models, or others in their place.

    Titles have no whole path in them: a page may be shared, and a run may be moved.

    Raises:
        ValueError: For a folder without the ``config.yaml`` of a fit, a run of random weights without ``base``, one without an export and ``tuned``, and
            data whose class or options do not exist (any more).
    """
    file, export = folder / "config.yaml", folder / "export"
    if not file.is_file():
        way_out = run_around(folder, file.name) or "; give the folder of one, `--run` of its `lit-talr fit`."
        raise ValueError(f"{folder} {'has no config.yaml, so it is no run' if folder.is_dir() else 'is no folder'}{way_out}")
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
        model, data = config["model"], dict(config["data"])
        pretrained, revision, tokenizer = model["pretrained"], model.get("revision"), model.get("tokenizer")
        rate = (model["optimizer"].get("init_args") or {}).get("lr")
        arithmetic = read_arithmetic(config)
        title = remedy_name(model) + ("" if rate is None else f" at rate {scientific(float(rate))}")
    except (yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} is not the configuration of a `lit-talr fit` ({type(error).__name__}: {error}); give the folder of a run.") from error
    if not (base or pretrained):
        raise ValueError(f"{folder} began with random weights, which are not saved; name a model to compare with as `--base`.")
    if not (tuned or (export / "config.json").is_file()):
        raise ValueError(
            f"{folder} has no export/, the tuned model that HFExport writes as `fit` ends; make it of a checkpoint with "
            f"`lit-talr export --ckpt {folder} --out {export}`, or name a model as `--tuned`."
        )
    base_model = Model("base", base, None, short(base), True) if base else Model("base", pretrained, revision, short(pretrained), False)
    tuned_model = Model("tuned", tuned, None, short(tuned), True) if tuned else Model("tuned", str(export), None, title, True)
    return TunedRun(read_data(data, tokenizer or pretrained, None if tokenizer else revision), base_model, tuned_model, arithmetic)


def read_arithmetic(config: dict[str, Any]) -> str:
    """The arithmetic of a run's scores in words."""
    trainer, engines = config["trainer"], ("DeepSpeed", "deepspeed", "FSDP2", "ModelParallel")
    engine = any(name in str(trainer.get("strategy")) for name in engines)
    return name_arithmetic(str(trainer.get("precision") or "32-true"), engine, config["model"].get("arithmetic") or "training")


def read_data(section: dict[str, Any], tokenizer: str | None, revision: str | None) -> DomainDataModule:
    """Make the data module, with the tokenizer that the command line links into it."""
    arguments = {**(section.get("init_args") or {}), "tokenizer": tokenizer, "tokenizer_revision": revision}
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(DomainDataModule, "data", required=True)
    try:
        parsed = parser.parse_object({"data": {**section, "init_args": arguments}})
    except ArgumentError as error:
        raise ValueError(str(error)) from error
    return parser.instantiate(parsed).data


def short(name: str) -> str:
    """A hub name as it is; the last two parts of a folder."""
    return "/".join(Path(name).parts[-2:])
