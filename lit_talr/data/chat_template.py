"""A tokenizer's chat template: what it reads, and conversations rendered by it."""

import re
from collections.abc import Mapping, Sequence
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError, nodes
from jinja2.meta import find_undeclared_variables
from jinja2.sandbox import ImmutableSandboxedEnvironment
from transformers import PreTrainedTokenizerBase

from lit_talr.data.encoding import SET_FOR_EVERY_TURN, Encoding
from lit_talr.data.example import Example, Message
from lit_talr.data.messages import MARK, REASONING, content_text
from lit_talr.utils.errors import first_line
from lit_talr.utils.files import shipped_file

GENERATION = re.compile(r"\{%[-+]?\s*(?:end)?generation\s*[-+]?%\}")
"""The tag by which a template marks responses for transformers."""


class ChatTemplate:
    """Renders conversations as text. Without a template, blank lines join the turns and the end token ends each response.

    Args:
        tokenizer: Gets ``encoding.chat_template``, if given.
        encoding: The options.

    Raises:
        ValueError: For a template file that cannot be read or is empty, a template that is not Jinja, named templates without a default, and arguments that
            the template never reads.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, encoding: Encoding) -> None:
        self.tokenizer = tokenizer
        self.name = tokenizer.name_or_path or type(tokenizer).__name__
        if encoding.chat_template is not None:
            tokenizer.chat_template = read_template(shipped_file(Path(encoding.chat_template)))
        named = tokenizer.chat_template
        if isinstance(named, dict) and "default" not in named:
            raise ValueError(
                f"The tokenizer {self.name!r} must have one chat template, or one called `default`, got {', '.join(sorted(named))}; write the one to use "
                "into a file and give it as `encoding.chat_template`."
            )
        for source in named.values() if isinstance(named, dict) else [named or ""]:
            check_syntax(source, encoding.chat_template or self)
        self.source = "\n".join(named.values()) if isinstance(named, dict) else named or ""
        self.tools: list[Mapping[str, Any]] = []
        self.arguments: Mapping[str, Any] = {}
        self.add_arguments(encoding.template_arguments, "`encoding.template_arguments`")

    def add_arguments(self, arguments: Mapping[str, Any], where: str) -> None:
        for name in arguments:
            if name in SET_FOR_EVERY_TURN:
                raise ValueError(f"{where} must not hold `{name}`, which is set for every turn; leave it out.")
            if not self.reads(name):
                raise ValueError(f"{where} holds `{name}`, which the chat template of {self.name!r} never reads; leave it out.")
        self.arguments = {**self.arguments, **arguments}

    def given(self, example: Example) -> "ChatTemplate":
        """The template with the tools and arguments of a row.

        Raises:
            ValueError: For a part of the row that the template never reads.
        """
        for index, message in enumerate(example.messages):
            for key in ("tool_calls", "name", "tool_call_id", *REASONING):
                names = REASONING if key in REASONING else (key,)  # transformers gives the thoughts under all their names
                if message.get(key) and not any(map(self.reads, names)) and not is_only_for_the_record(key, message):
                    raise ValueError(f"Turn {index} has `{key}`, which {self} never reads; leave it out, or give another `encoding.chat_template`.")
        if example.tools and not self.reads("tools"):
            raise ValueError(f"The row has `tools`, which {self} never reads; leave them out, or give another `encoding.chat_template`.")
        if not (example.tools or example.template_arguments):
            return self
        given = copy(self)
        given.tools = list(example.tools)
        given.add_arguments(example.template_arguments, "`chat_template_kwargs`")
        return given

    def __str__(self) -> str:
        return f"the chat template of {self.name!r}"

    def reads(self, name: str) -> bool:
        return re.search(rf"\b{re.escape(name)}\b", self.source) is not None

    def choices(self) -> list[dict[str, bool]]:
        """The template's own variables, each on and off; those that are texts or lists are among them and change nothing."""
        names = find_undeclared_variables(parse_template(self.source))
        own = sorted(name for name in names if name not in (*SET_FOR_EVERY_TURN, "raise_exception", "strftime_now") and not name.endswith("_token"))
        return [{name: value} for name in own for value in (True, False) if self.arguments.get(name) is not value]

    def with_choice(self, choice: Mapping[str, bool]) -> "ChatTemplate":
        chosen = copy(self)
        chosen.arguments = {**self.arguments, **choice}
        return chosen

    @cached_property
    def wraps_texts(self) -> bool:
        """Whether the template reads lists of text parts only, as those of models that see images do."""
        return bool(self.source) and not self.shows(f"{MARK}a") and self.shows([{"type": "text", "text": f"{MARK}a"}])

    @cached_property
    def reads_parts(self) -> bool:
        return self.shows([{"type": "text", "text": f"{MARK}a"}])

    def shows(self, content: Any) -> bool:
        """Tells whether a user's content is rendered as text, and not, say, as a list of Python."""
        try:
            text = self.apply([{"role": "user", "content": content}], prompt=True)
        except ValueError:
            return False
        return f"{MARK}a" in text and not re.search(rf"text['\"]: ?['\"]{MARK}a", text)

    def render(self, messages: Sequence[Message], prompt: bool) -> str:
        """The conversation as text; with ``prompt``, up to where the next response begins.

        Raises:
            ValueError: If the template refuses the conversation.
        """
        if not self.source:
            ends = [self.tokenizer.eos_token if message["role"] == "assistant" else "" for message in messages]
            return "\n\n".join(content_text(message) + end for message, end in zip(messages, ends, strict=True)) + ("\n\n" if prompt else "")
        return self.apply([self.turn(index, message) for index, message in enumerate(messages)], prompt)

    def turn(self, index: int, message: Message) -> dict[str, Any]:
        """A turn as the template reads it."""
        content = message.get("content") or ""
        if isinstance(content, str):
            content = [{"type": "text", "text": content}] if self.wraps_texts else content
        elif not self.reads_parts:
            raise ValueError(f"Turn {index} has a list of text parts as `content`, which {self} does not read; join them into one text.")
        return {**message, "content": content}

    def apply(self, turns: Sequence[dict[str, Any]], prompt: bool) -> str:
        try:
            tools: list[Any] | None = [dict(tool) for tool in self.tools] or None
            text = self.tokenizer.apply_chat_template(list(turns), tools=tools, tokenize=False, add_generation_prompt=prompt, **self.arguments)
        except (TemplateError, TypeError, ValueError, ArithmeticError, AttributeError, LookupError) as error:  # what a template's own expressions raise
            roles = ", ".join(turn["role"] for turn in turns)
            raise ValueError(
                f"T{str(self)[1:]} cannot render turns of the roles {roles}: {error}; leave out the turn that it refuses (a system text "
                "can stand in the first user turn), look at `encoding.template_arguments`, or give another `encoding.chat_template`."
            ) from error
        assert isinstance(text, str)
        return text


def is_only_for_the_record(key: str, message: Message) -> bool:
    """Tells whether a key belongs to the format of a tool's answer, which many templates need not read."""
    return key in ("name", "tool_call_id") and message["role"] == "tool"


def parse_template(source: str) -> nodes.Template:
    """The syntax tree of a template, without the tag that transformers adds to Jinja's."""
    environment = ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"])
    plain = GENERATION.sub("", source)
    environment.compile(plain)  # finds filters and tests that do not exist
    return environment.parse(plain)


def check_syntax(source: str, name: object) -> None:
    """Refuses a template that is not Jinja.

    Raises:
        ValueError: With the line.
    """
    try:
        parse_template(source)
    except TemplateSyntaxError as error:
        raise ValueError(f"`encoding.chat_template`: {name}: line {error.lineno} is not valid Jinja ({error.message}); correct it, or give another.") from error


def read_template(path: Path) -> str:
    """A template's text, without a byte order mark.

    Raises:
        ValueError: For a file that cannot be read, is not UTF-8, or is empty.
    """
    try:
        source = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"`encoding.chat_template`: {path} must be UTF-8, got {error.reason} at byte {error.start}; save the file as UTF-8.") from error
    except OSError as error:
        raise ValueError(f"`encoding.chat_template`: {path} cannot be read ({first_line(error)}); give a Jinja file.") from error
    if not source.strip():
        raise ValueError(f"`encoding.chat_template`: {path} must hold a Jinja template, got an empty file; leave it out for the tokenizer's own template.")
    return source
