"""Sentences for a config.json that transformers cannot make a configuration of."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub.errors import StrictDataclassError
from transformers import PretrainedConfig


class ConfigError(ValueError):
    """A config.json that transformers makes no configuration of."""


@contextmanager
def explained_config(name: str) -> Iterator[None]:
    """Within the block, in which transformers alone reads the configuration of a model, what its classes refuse becomes a sentence with the file.

    Raises:
        ConfigError: With transformers' reason, whose last line says it.
    """
    logging.getLogger("transformers.configuration_utils").setLevel(logging.CRITICAL)  # it logs what it raises, with the whole configuration
    try:
        yield
    except (StrictDataclassError, AttributeError, TypeError, KeyError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1].strip().removeprefix("ValueError: ")
        raise ConfigError(
            f"{Path(name) / 'config.json'} is no configuration of its `model_type` ({reason}); correct it, or fetch or write the folder again."
        ) from error


def refuse_quantised(config: PretrainedConfig, name: str) -> None:
    """Refuses quantised weights, which can be neither trained exactly nor merged.

    Raises:
        ValueError: With the method of quantisation.
    """
    if quantised := getattr(config, "quantization_config", None):
        fields = quantised if isinstance(quantised, dict) else vars(quantised)
        raise ValueError(
            f"{name} has quantised weights (`quantization_config` of {fields.get('quant_method', 'no known method')} in its config.json), which are not "
            "supported; give the model in bfloat16 or float32."
        )
