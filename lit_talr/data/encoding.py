"""Conversations as tokens: the model's input, and which of its tokens are learned."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from lit_talr.data.example import Example, Message
from lit_talr.utils.errors import check_least

TooLongPolicy = Literal["error", "drop", "truncate_prompt"]
ROLES = ("system", "user", "assistant", "tool")
GUARD = "\ufdd0"
"""A code point that Unicode keeps out of texts. It separates the characters of text that looks like a special token, and the tokenizer splits there."""
NOT_TEXT = re.compile(f"[\\ud800-\\udfff{GUARD}]")


@dataclass(frozen=True)
class Encoding:
    """How examples become tokens.

    Args:
        max_length: Most tokens of a row, prompt and response together; at least 2.
        too_long: Treatment of a longer row: ``error`` stops, ``drop`` leaves it out and counts it, ``truncate_prompt`` cuts the middle out of the last
            user turn and counts it.
        template_arguments: Arguments of the chat template, in training and testing alike (such as Qwen3's ``enable_thinking: false``, or the
            ``date_string`` of Llama 3, which is today's date otherwise).
        chat_template: A Jinja file used instead of the tokenizer's own chat template; exports carry it.

    Raises:
        ValueError: For a value out of range, an argument that is set for every turn, or a file that is not there.
    """

    max_length: int = 4096
    too_long: TooLongPolicy = "error"
    template_arguments: dict[str, Any] = field(default_factory=dict)
    chat_template: Path | None = None

    def __post_init__(self) -> None:
        check_least("encoding.max_length", self.max_length, 2)
        if self.too_long not in get_args(TooLongPolicy):
            raise ValueError(f"`encoding.too_long` must be one of {', '.join(get_args(TooLongPolicy))}, got {self.too_long!r}.")
        for name in ("messages", "conversation", "add_generation_prompt", "continue_final_message", "tokenize", "chat_template"):
            if name in self.template_arguments:
                raise ValueError(f"`encoding.template_arguments` must not hold `{name}`, which is set for every turn; leave it out.")
        if self.chat_template is not None and not Path(self.chat_template).is_file():
            raise ValueError(f"`encoding.chat_template` must be a Jinja file, got {str(self.chat_template)!r}, which is not there.")


class Encoded(NamedTuple):
    """A training row."""

    input_ids: np.ndarray  # [L] int32
    supervised: np.ndarray  # [L] bool, True for tokens whose prediction carries loss
    truncated: int  # prompt tokens cut away


class TooLong(ValueError):
    """A row, or a prompt, of more tokens than allowed."""

    def __init__(self, num_tokens: int, max_length: int) -> None:
        super().__init__(num_tokens, max_length)  # the arguments that unpickling in another process needs
        self.num_tokens = num_tokens
        self.max_length = max_length

    def __str__(self) -> str:
        return (
            f"This has {self.num_tokens:,} tokens, more than the {self.max_length:,} allowed; raise `encoding.max_length`, "
            "or set `encoding.too_long` to `drop` or `truncate_prompt` (which never cuts a response)."
        )


class AssistantTurn(NamedTuple):
    """An assistant turn in a rendered conversation."""

    before: str  # the text in front of it, up to where generation begins
    text: str  # the turn with its end-of-turn token
    ended: bool  # whether the template wrote an end-of-turn token


class ChatEncoder:
    """Turns conversations into tokens through the tokenizer's chat template; without a template, blank lines join the turns.

    The conversation is rendered up to each response. Prompts and responses are tokenised apart, so generation starts from exactly the tokens that
    precede the response in training (unless the row is truncated). A learned turn is what its render adds to the render before it, up to and with the
    end-of-turn token. What the template writes after that is context only. If a template writes no end-of-turn token, each response ends with the
    tokenizer's end token. Special tokens come from the template alone: text that looks like one is tokenised as plain text.

    Args:
        tokenizer: Has a pad and an end token; gets ``encoding.chat_template``, if given.
        encoding: The options.

    Attributes:
        stop_token_ids: The tokens that end a response: the tokenizer's end token and the template's end of turn.

    Raises:
        ValueError: For template arguments that the template never reads, and a tokenizer that puts a space before every piece of text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, encoding: Encoding) -> None:
        self.tokenizer = tokenizer
        self.encoding = encoding
        self.name = tokenizer.name_or_path or type(tokenizer).__name__
        if encoding.chat_template is not None:
            tokenizer.chat_template = Path(encoding.chat_template).read_text(encoding="utf-8")
        template = tokenizer.get_chat_template() if tokenizer.chat_template else ""
        for argument in encoding.template_arguments:
            if not re.search(rf"\b{re.escape(argument)}\b", template):
                raise ValueError(f"`encoding.template_arguments` holds `{argument}`, which the chat template of {self.name!r} never reads; leave it out.")
        self.pad_token_id: int = tokenizer.pad_token_id
        self.eos_token_id: int = tokenizer.eos_token_id
        added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
        specials = sorted({*added, *tokenizer.all_special_tokens}, key=len, reverse=True)
        self.special = re.compile("|".join(map(re.escape, specials)))
        self.anchor = self.find_anchor()
        adds_bos = tokenizer.bos_token_id is not None and tokenizer("a").input_ids[0] == tokenizer.bos_token_id
        self.start = [] if template or not adds_bos else [tokenizer.bos_token_id]  # a template writes its own
        self.stop_token_ids = self.find_stop_tokens()

    def encode(self, example: Example) -> Encoded:
        """Encodes a training row, which ends with its last supervised turn.

        Raises:
            TooLong: For more than ``max_length`` tokens, after truncation if that is the policy.
            ValueError: For a malformed conversation, an empty response, or a template that cannot render it with the prompts of generation.
        """
        if not example.supervised:
            raise ValueError("This has no supervised turn, so there is nothing to learn; name one in `supervised`, or leave it out.")
        for index in example.supervised:
            if not 0 < index < len(example.messages) or example.messages[index].get("role") != "assistant":
                raise ValueError(f"`supervised` must name turns of the role `assistant` after the first turn, got {index} of {len(example.messages)} turns.")
        if any(later <= earlier for earlier, later in pairwise(example.supervised)):
            raise ValueError(f"`supervised` must name turns in their order and none twice, got {example.supervised}.")
        messages = example.messages[: example.supervised[-1] + 1]
        check_messages(messages)
        for index in example.supervised:
            if not messages[index]["content"].strip():
                raise ValueError(f"Turn {index} has an empty response; fill it in, or leave the row out.")
        input_ids, mask, truncated = self.fit(messages, example.supervised, self.encoding.max_length)
        return Encoded(np.array(input_ids, dtype=np.int32), np.array(mask, dtype=bool), truncated)

    def encode_prompt(self, messages: Sequence[Message], max_length: int | None = None) -> tuple[list[int], int]:
        """Encodes a prompt for generation; also returns how many tokens were cut away.

        Args:
            messages: The turns before the response.
            max_length: Most tokens of the prompt; by default ``encoding.max_length``.

        Raises:
            TooLong: For more than ``max_length`` tokens, after truncation if that is the policy.
            ValueError: For a malformed conversation, or one that the template refuses.
        """
        check_messages(messages)
        input_ids, _, truncated = self.fit(messages, (), max_length or self.encoding.max_length)
        return input_ids, truncated

    def fit(self, messages: Sequence[Message], supervised: Sequence[int], max_length: int) -> tuple[list[int], list[bool], int]:
        """Tokens, mask and number of tokens cut. The middle of the last user turn is cut until the row fits, if that is the policy."""
        input_ids, mask = self.tokens_and_mask(messages, supervised)
        num_tokens = len(input_ids)
        if num_tokens <= max_length:
            return input_ids, mask, 0
        user = max((index for index, message in enumerate(messages) if message["role"] == "user"), default=None)
        if user is None or self.encoding.too_long != "truncate_prompt":
            raise TooLong(num_tokens, max_length)
        text = messages[user]["content"]
        length, characters_per_token = len(text), len(text) / max(1, len(self.tokenize(text, start=False)))
        while len(input_ids) > max_length:
            if length == 0:
                raise TooLong(num_tokens, max_length)
            length = max(0, length - math.ceil((len(input_ids) - max_length) * characters_per_token))
            shorter = text[: length - length // 2] + text[len(text) - length // 2 :]  # tasks stand at the start or at the end
            input_ids, mask = self.tokens_and_mask([*messages[:user], Message(role="user", content=shorter), *messages[user + 1 :]], supervised)
        return input_ids, mask, num_tokens - len(input_ids)

    def tokens_and_mask(self, messages: Sequence[Message], supervised: Sequence[int]) -> tuple[list[int], list[bool]]:
        """A row that ends with its last supervised turn, or else a prompt; every response in it is tokenised apart, learned or not."""
        messages = [Message(role=message["role"], content=self.special.sub(guard, message["content"])) for message in messages]
        turns = {index: self.assistant_turn(messages[: index + 1]) for index, message in enumerate(messages) if index and message["role"] == "assistant"}
        last = turns[supervised[-1]] if supervised else None
        whole = last.before + last.text if last else self.render(messages, prompt=True)
        input_ids, mask, done = list(self.start), [False] * len(self.start), 0

        def add(text: str, is_learned: bool = False, end: Sequence[int] = ()) -> None:
            tokens = [*self.tokenize(text, start=done == 0), *end]
            input_ids.extend(tokens)
            mask.extend([is_learned] * len(tokens))

        for index, turn in turns.items():
            if turn is None or len(turn.before) < done or not whole.startswith(turn.before + turn.text):
                if index in supervised:
                    raise ValueError(self.refusal(index, turn))
                continue  # this earlier turn was rewritten, and is plain context
            if index in supervised and not self.special.sub("", turn.text).strip():
                raise ValueError(f"The chat template of {self.name!r} leaves nothing of turn {index}; give another `encoding.chat_template`.")
            add(whole[done : len(turn.before)])
            done = len(turn.before)
            add(turn.text, index in supervised, () if turn.ended else (self.eos_token_id,))
            done += len(turn.text)
        if done < len(whole):
            add(whole[done:])
        return input_ids, mask

    def assistant_turn(self, messages: Sequence[Message]) -> AssistantTurn | None:
        """The last turn as rendered; None if the template does not continue its own generation prompt."""
        before, after = self.render(messages[:-1], prompt=True), self.render(messages, prompt=False)
        if not after.startswith(before):
            return None
        gained, content = after[len(before) :], messages[-1]["content"]
        ends = list(self.special.finditer(gained))  # all the template's, since those in the content are guarded
        last_word = content.split()[-1] if content.strip() else ""
        words = {end: self.special.sub("", gained[: end.start()]).rstrip() for end in ends}  # that stand before each
        after_content = [end for end in ends if words[end].endswith(last_word)]
        if ends:
            text = gained[: max(after_content or ends, key=lambda end: len(words[end])).end()]  # the first after all words
        else:
            text = gained[: gained.rfind(content) + len(content)] if content in gained else gained.rstrip()
        return AssistantTurn(before, text, ended=bool(ends))

    def refusal(self, index: int, turn: AssistantTurn | None) -> str:
        template = f"The chat template of {self.name!r}"
        if turn is None:
            return (
                f"{template} does not render turn {index} as a continuation of its own generation prompt, so training would not match "
                "generation; set `encoding.template_arguments` (such as enable_thinking), or give another `encoding.chat_template`."
            )
        return (
            f"{template} rewrites turn {index} once later turns follow, so it cannot be learned together with them; learn the last turn only "
            "(`turns: last`), set `encoding.template_arguments`, or give another `encoding.chat_template`."
        )

    def render(self, messages: Sequence[Message], prompt: bool) -> str:
        """The conversation as text; with ``prompt``, up to where the next response begins."""
        if not self.tokenizer.chat_template:
            return "\n\n".join(message["content"] for message in messages) + ("\n\n" if prompt else "")
        turns = [{"role": message["role"], "content": message["content"]} for message in messages]
        try:
            text = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=prompt, **self.encoding.template_arguments)
        except (TemplateError, TypeError, ValueError, ArithmeticError, AttributeError, LookupError) as error:  # what a template's own expressions raise
            roles = ", ".join(message["role"] for message in messages)
            raise ValueError(
                f"The chat template of {self.name!r} cannot render turns of the roles {roles}: {error}; leave out the turn that it refuses (a system text "
                "can stand in the first user turn), look at `encoding.template_arguments`, or give another `encoding.chat_template`."
            ) from error
        assert isinstance(text, str)
        return text

    def tokenize(self, text: str, start: bool) -> list[int]:
        """Token ids of a piece of text; ``start`` if it begins the row."""
        input_ids: list[int] = []
        for piece in filter(None, text.split(GUARD)):
            anchor = "" if start and not input_ids else self.anchor
            input_ids += self.tokenizer(anchor + piece, add_special_tokens=False, verbose=False).input_ids[bool(anchor) :]
        return input_ids

    def find_anchor(self) -> str:
        """The special token put before later pieces, for tokenizers (SentencePiece's) that put a space before the start of a text."""
        for anchor in ("", self.tokenizer.eos_token):
            input_ids = self.tokenizer(f"{anchor}a", add_special_tokens=False).input_ids[bool(anchor) :]
            pieces = "".join(self.tokenizer.convert_ids_to_tokens(input_ids))
            if not (pieces.endswith("a") and len(pieces) > 1):
                return anchor
        raise ValueError(
            f"The tokenizer {self.name!r} puts a space before every piece of text, so prompt and response cannot be tokenised apart; load one with "
            '"legacy": false in its tokenizer_config.json (prepend_scheme "first" in its tokenizer.json), or another tokenizer.'
        )

    def find_stop_tokens(self) -> tuple[int, ...]:
        """The tokens that end a response, from a conversation of two turns."""
        turn = self.assistant_turn([Message(role="user", content="a"), Message(role="assistant", content="b")])
        end = self.tokenize(turn.text, start=False)[-1] if turn and turn.ended else self.eos_token_id
        return tuple(dict.fromkeys((self.eos_token_id, end)))


def guard(match: re.Match[str]) -> str:
    return GUARD + GUARD.join(match[0]) + GUARD


def check_messages(messages: Sequence[Message]) -> None:
    """Refuses turns without a known role or without a text."""
    if not messages:
        raise ValueError("The conversation must have at least one turn, got none; leave the row out.")
    for index, message in enumerate(messages):
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            raise ValueError(f"Turn {index} must have a `role` out of {', '.join(ROLES)}, got {role!r}; rename it.")
        if not isinstance(content, str):
            raise ValueError(f"Turn {index} must have a text as `content`, got {content!r}; fill it in, or leave the row out.")
        if bad := NOT_TEXT.search(content):
            raise ValueError(f"Turn {index} must hold text only, got U+{ord(bad[0]):04X} (half a surrogate pair, or the mark that is used here); remove it.")
