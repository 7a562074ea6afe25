"""The options of how examples become tokens."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from lit_talr.utils.errors import check_in, check_least
from lit_talr.utils.files import shipped_file

TooLongPolicy = Literal["error", "drop", "truncate_prompt"]
SET_FOR_EVERY_TURN = ("messages", "conversation", "tools", "add_generation_prompt", "continue_final_message", "tokenize", "chat_template")


@dataclass(frozen=True)
class Encoding:
    """How examples become tokens.

    Args:
        max_length: Most tokens of a row, prompt and response together; at least 2.
        too_long: Treatment of a longer row: ``error`` stops, ``drop`` leaves it out and counts it, ``truncate_prompt`` cuts the middle out of the last
            user turn and counts it.
        template_arguments: Arguments of the chat template, in training and testing alike (such as Qwen3's ``enable_thinking: false``, or the
            ``date_string`` of Llama 3, which is today's date otherwise). A row's column ``chat_template_kwargs`` goes over them.
        chat_template: A Jinja file used instead of the tokenizer's own chat template; exports carry it. ``lit_talr/configs/prompts/completion.jinja``
            writes the turns one after another, with nothing between them.
        prompt_weight: Weight of the tokens before and between learned turns, at least 0 and finite. At 0 they carry no loss. Above, they are supervised
            with this weight, and count in N like any token.

    Raises:
        ValueError: For a value out of range, an argument that is set for every turn, or a file that is not there.
    """

    max_length: int = 4096
    too_long: TooLongPolicy = "error"
    template_arguments: dict[str, Any] = field(default_factory=dict)
    chat_template: Path | None = None
    prompt_weight: float = 0.0

    def __post_init__(self) -> None:
        check_least("encoding.max_length", self.max_length, 2)
        check_in("encoding.prompt_weight", self.prompt_weight, "[0, inf)")
        if self.too_long not in get_args(TooLongPolicy):
            raise ValueError(f"`encoding.too_long` must be one of {', '.join(get_args(TooLongPolicy))}, got {self.too_long!r}.")
        for name in SET_FOR_EVERY_TURN:
            if name in self.template_arguments:
                raise ValueError(f"`encoding.template_arguments` must not hold `{name}`, which is set for every turn; leave it out.")
        if self.chat_template is not None and not shipped_file(Path(self.chat_template)).is_file():
            raise ValueError(f"`encoding.chat_template` must be a Jinja file, got {str(self.chat_template)!r}, which is not there.")
