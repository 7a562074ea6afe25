"""Conversations as tokens: the model's input, and which of its tokens are learned."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase

from lit_talr.data.chat_template import ChatTemplate
from lit_talr.data.encoding import Encoding
from lit_talr.data.example import Example, Message
from lit_talr.data.insertions import Seams, check_insertions, start_of
from lit_talr.data.learned import check_context, check_learned
from lit_talr.data.messages import GUARD, check_messages, content_text, map_texts, texts_in, with_text
from lit_talr.data.turns import AssistantTurn, Ends, Mismatch, assistant_turn, find_ends
from lit_talr.data.weights import check_weights, spans_of, token_weights, turn_weight


class Encoded(NamedTuple):
    """A training row."""

    input_ids: np.ndarray  # [L] int32
    supervised: np.ndarray  # [L] bool, True for tokens whose prediction carries loss
    truncated: int  # prompt tokens cut away
    noise: np.ndarray  # [L] bool, True for the tokens of insertions
    weights: np.ndarray | None = None  # [L] float32, what the loss's weights are multiplied by, above 0 where supervised; None: 1 everywhere


class Tokens(NamedTuple):
    """A row as lists of equal length."""

    input_ids: list[int]
    weights: list[float]  # 0: carries no loss
    noise: list[bool]


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


class Unlearnable(ValueError):
    """A turn that a template does not render so that it can be learned."""


class ChatEncoder:
    """Turns conversations into tokens through the tokenizer's chat template; without a template, blank lines join the turns.

    The conversation is rendered up to each response. Prompts and responses are tokenised apart, so generation starts from exactly the tokens that
    precede the response in training (unless the row is truncated). A learned turn is what its render adds to the render before it, up to and with the
    end of turn. What the template writes after that is context only. A template that ends a response only by the token that opens the next turn, as
    GLM's, has that token learned. A template that never ends a response is refused. Special tokens come from the template alone: text that looks like
    one is tokenised as plain text. Added tokens that are not special, such as ``<think>``, stay tokens wherever they stand.

    Args:
        tokenizer: Has an end token; gets ``encoding.chat_template``, if given.
        encoding: The options.

    Attributes:
        stop_token_ids: The tokens that end a response: the tokenizer's end token and the template's ends of turn.

    Raises:
        ValueError: For a template that cannot be used, arguments that it never reads, and a tokenizer that puts a space before every piece of text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, encoding: Encoding) -> None:
        self.tokenizer = tokenizer
        self.encoding = encoding
        self.template = ChatTemplate(tokenizer, encoding)
        self.eos_token_id: int = tokenizer.eos_token_id
        self.pad_token_id: int = self.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id  # padding never carries loss
        added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
        specials = sorted({*added, *tokenizer.all_special_tokens}, key=len, reverse=True)
        self.special = re.compile("|".join(map(re.escape, specials)))
        self.anchor = self.find_anchor()
        adds_bos = tokenizer.bos_token_id is not None and tokenizer("a").input_ids[0] == tokenizer.bos_token_id
        self.start = [] if self.template.source or not adds_bos else [tokenizer.bos_token_id]  # a template writes its own
        self.ends = find_ends(self.template, self.special, calls=False)
        self.stop_token_ids = self.find_stop_tokens()

    @cached_property
    def ends_of_calls(self) -> Ends:
        """The ends of turns that call tools; those of others where the template does not render a call."""
        try:
            ends = find_ends(self.template, self.special, calls=True) if self.template.reads("tool_calls") else self.ends
        except ValueError:  # not how this template is given a call
            return self.ends
        return ends if any(ends) else self.ends

    def encode(self, example: Example) -> Encoded:
        """Encodes a training row, which ends with its last supervised turn.

        Raises:
            TooLong: For more than ``max_length`` tokens, after truncation if that is the policy.
            ValueError: For a malformed conversation, an empty response, or a template that does not render all of it, or not with the prompts of generation.
        """
        if not example.supervised:
            raise ValueError("This has no supervised turn, so there is nothing to learn; name one in `supervised`, or leave it out.")
        for index in example.supervised:
            if not 0 < index < len(example.messages) or example.messages[index].get("role") != "assistant":
                raise ValueError(f"`supervised` must name turns of the role `assistant` after the first turn, got {index} of {len(example.messages)} turns.")
        if any(later <= earlier for earlier, later in pairwise(example.supervised)):
            raise ValueError(f"`supervised` must name turns in their order and none twice, got {example.supervised}.")
        example = replace(example, messages=example.messages[: example.supervised[-1] + 1])
        check_messages(example.messages)
        for index in example.supervised:
            if not content_text(example.messages[index]).strip() and not example.messages[index].get("tool_calls"):
                raise ValueError(f"Turn {index} has an empty response; fill it in, or leave the row out.")
        check_insertions(example)
        check_weights(example)
        row, truncated = self.fit(example, self.encoding.max_length)
        weights = example.weight * np.array(row.weights)
        weights[0] = 0  # nothing predicts the first token
        supervised, rounded = weights != 0, weights.astype(np.float32)
        if not (np.isfinite(rounded).all() and rounded[supervised].all()):
            lowest, highest = weights[supervised].min(), weights.max()
            raise ValueError(
                f"The weights of its tokens, as products, reach from {lowest:g} to {highest:g}, which float32 cannot hold; bring them nearer to 1."
            )
        own = rounded if (rounded[supervised] != 1).any() else None
        return Encoded(np.array(row.input_ids, dtype=np.int32), supervised, truncated, np.array(row.noise, dtype=bool), own)

    def encode_prompt(
        self,
        messages: Sequence[Message],
        max_length: int | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
        template_arguments: Mapping[str, Any] | None = None,
    ) -> tuple[list[int], int]:
        """Encodes a prompt for generation; also returns how many tokens were cut away.

        Args:
            messages: The turns before the response.
            max_length: Most tokens of the prompt; by default ``encoding.max_length``.
            tools: The functions that the model may call.
            template_arguments: Arguments of the chat template for this prompt.

        Raises:
            TooLong: For more than ``max_length`` tokens, after truncation if that is the policy.
            ValueError: For a malformed conversation, or one that the template refuses.
        """
        check_messages(messages)
        example = Example(messages, (), tools=tools, template_arguments=template_arguments or {})
        row, truncated = self.fit(example, max_length or self.encoding.max_length)
        return row.input_ids, truncated

    def fit(self, example: Example, max_length: int) -> tuple[Tokens, int]:
        """Tokens and number of tokens cut. The middle of the last user turn is cut until the row fits, if that is the policy."""
        row = self.tokens(example)
        num_tokens, messages = len(row.input_ids), example.messages
        if num_tokens <= max_length:
            return row, 0
        user = max((index for index, message in enumerate(messages) if message["role"] == "user"), default=None)
        if user is None or self.encoding.too_long != "truncate_prompt":
            raise TooLong(num_tokens, max_length)
        text = content_text(messages[user])
        length, characters_per_token = len(text), len(text) / max(1, len(self.tokenize(text, start=False)))
        while len(row.input_ids) > max_length:
            if length == 0:
                raise TooLong(num_tokens, max_length)
            length = max(0, length - math.ceil((len(row.input_ids) - max_length) * characters_per_token))
            cut = with_text(messages[user], partial(without_middle, cut=len(text) - length))
            row = self.tokens(replace(example, messages=[*messages[:user], cut, *messages[user + 1 :]]))
        return row, num_tokens - len(row.input_ids)

    def tokens(self, example: Example) -> Tokens:
        """A row that ends with its last supervised turn, or else a prompt; every response in it is tokenised apart, learned or not.

        Raises:
            ValueError: With the argument of the template that helps, if one does.
        """
        guarded = replace(example, **{name: map_texts(getattr(example, name), self.guard) for name in ("messages", "tools", "template_arguments")})
        template = self.template.given(guarded)
        try:
            return self.pieces(template, guarded)
        except Unlearnable as error:
            raise ValueError(f"{error}{self.way_out(template, guarded)}") from error

    def way_out(self, template: ChatTemplate, example: Example) -> str:
        """The rest of a refusal: what helps, tried on the row itself."""
        helps = []
        for choice in template.choices():
            try:
                self.pieces(template.with_choice(choice), example)
            except ValueError:
                continue
            ((name, value),) = choice.items()
            helps.append(f"set `encoding.template_arguments` to {{{name}: {str(value).lower()}}}")
            break
        if len(example.supervised) > 1:
            try:
                self.pieces(template, replace(example, supervised=example.supervised[-1:]))
                helps.append("learn the last turn only (`turns: last`)")
            except ValueError:
                pass
        return "; " + ", or ".join([*helps, "give another `encoding.chat_template`"]) + "."

    def pieces(self, template: ChatTemplate, example: Example) -> Tokens:
        """Tokens of a row whose texts are guarded."""
        messages, supervised = example.messages, example.supervised
        turns = {index: self.assistant_turn(template, messages[: index + 1]) for index in range(1, len(messages)) if is_response(messages[index])}
        whole = self.whole(template, example, turns)
        prompt = self.encoding.prompt_weight
        row, done = Tokens(list(self.start), [prompt] * len(self.start), [False] * len(self.start)), 0
        left_out = {turn for turn, value, span in example.weights if value == 0 and span is None} if prompt else set()

        def add(text: str, weight: float, spans: Sequence[float] = (), insertions: Sequence[tuple[int, list[int]]] = ()) -> None:
            tokens, last = self.tokenize(text, start=done == 0), 0
            weights = [weight * own for own in spans] if spans else [weight] * len(tokens)
            for index, inserted in (*insertions, (len(tokens), [])):
                row.input_ids.extend([*tokens[last:index], *inserted])
                row.noise.extend([False] * (index - last) + [True] * len(inserted))
                row.weights.extend([*weights[last:index], *[weight] * len(inserted)])
                last = index

        for index, turn in turns.items():
            if isinstance(turn, Mismatch) or len(turn.before) < done or not whole.startswith(turn.before + turn.text):
                if index in supervised:
                    raise Unlearnable(refusal(template, index, turn, whole))
                continue  # this earlier turn was rewritten, and is plain context
            if index in supervised:
                check_learned(template, messages[: index + 1], turn, self.special)
            add(whole[done : len(turn.before)], prompt)
            done = len(turn.before)
            if index in supervised:
                add(turn.text, turn_weight(example, index), self.span_weights(example, index, turn), self.insertions_of(example, index, turn))
            else:
                add(turn.text, 0 if index in left_out else prompt)
            left_out.discard(index)
            done += len(turn.text)
        if done < len(whole):
            add(whole[done:], prompt)
        if left_out:
            raise ValueError(
                f"Turn {min(left_out)} is not to be learned, but `encoding.prompt_weight` is {prompt}, and of the turns before a response only an assistant's "
                "that the chat template renders alike throughout can be left out; leave out its `train` and `weight`, or set `encoding.prompt_weight` to 0."
            )
        return row

    def whole(self, template: ChatTemplate, example: Example, turns: Mapping[int, AssistantTurn | Mismatch]) -> str:
        """The conversation as text, up to the end of its last supervised turn, or else up to where the response begins."""
        text = template.render(example.messages, prompt=not example.supervised)
        check_context(template, example, text)
        if not example.supervised:
            return text
        last = turns[example.supervised[-1]]
        return text if isinstance(last, Mismatch) or not text.startswith(last.before + last.body) else last.before + last.text

    def assistant_turn(self, template: ChatTemplate, messages: Sequence[Message]) -> AssistantTurn | Mismatch:
        return assistant_turn(template, messages, self.ends_of_calls if messages[-1].get("tool_calls") else self.ends)

    def tokenize(self, text: str, start: bool) -> list[int]:
        """Token ids of a piece of text; ``start`` if it begins the row."""
        input_ids: list[int] = []
        for piece in filter(None, text.split(GUARD)):
            anchor = "" if start and not input_ids else self.anchor
            input_ids += self.tokenizer(anchor + piece, add_special_tokens=False, verbose=False).input_ids[bool(anchor) :]
        return input_ids

    def seams(self, text: str) -> Seams:
        """The places between the tokens of a later piece of text.

        Raises:
            ValueError: For a tokenizer that does not know the places of its tokens.
        """
        if not self.tokenizer.is_fast:
            raise ValueError(f"Insertions and weights of spans need a fast tokenizer, which knows where its tokens are, got {type(self.tokenizer).__name__}.")
        input_ids, spans, start = [], [], 0
        for piece in filter(None, text.split(GUARD)):
            encoded = self.tokenizer(self.anchor + piece, add_special_tokens=False, verbose=False, return_offsets_mapping=True)
            input_ids += encoded.input_ids[bool(self.anchor) :]
            spans += [[start - len(self.anchor) + place for place in span] for span in encoded.offset_mapping[bool(self.anchor) :]]
            start += len(piece)
        return Seams(text.replace(GUARD, ""), input_ids, [begin for begin, _ in spans], [end for _, end in spans])

    def tokenize_at(self, seams: Seams, at: int, text: str) -> list[int]:
        """Token ids of an insertion: as they are before the token behind it where that stays the same, or else as they are alone."""
        behind, last = seams.behind(at)
        input_ids = self.tokenize(self.guard(text) + behind, start=False)
        return input_ids[:-1] if last and input_ids[-1:] == last else self.tokenize(self.guard(text), start=False)

    def span_weights(self, example: Example, index: int, turn: AssistantTurn) -> list[float]:
        """The weight that each token of a turn has by its spans; empty where the turn has none.

        Raises:
            ValueError: For a turn that the template changes.
        """
        spans = spans_of(example, index)
        if not spans:
            return []
        seams, content = self.seams(turn.text), content_text(example.messages[index]).replace(GUARD, "")
        start, body = start_of(content, seams.text, turn.end, index), content.strip()
        whole = start >= 0 and seams.text.startswith(content, start)  # else the template removes white space around it
        first, last = (0, len(content)) if whole else (content.index(body), content.index(body) + len(body))
        characters = np.ones(len(seams.text))
        for begin, end, weight in spans:
            characters[start + max(begin, first) : start + max(min(end, last), first)] = weight
        return token_weights(characters, seams.begins, seams.ends)

    def insertions_of(self, example: Example, index: int, turn: AssistantTurn) -> list[tuple[int, list[int]]]:
        """The insertions of a turn as token ids, each with the number of the turn's tokens before it.

        Raises:
            ValueError: For a turn that the template changes, and an insertion inside a token.
        """
        insertions = sorted((insertion for insertion in example.insertions if insertion.turn == index), key=lambda insertion: insertion.at)
        if not insertions:
            return []
        seams = self.seams(turn.text)
        start = start_of(content_text(example.messages[index]).replace(GUARD, ""), seams.text, turn.end, index)
        places = [start + insertion.at for insertion in insertions]
        return [(seams.num_tokens_before(at), self.tokenize_at(seams, at, insertion.text)) for at, insertion in zip(places, insertions, strict=True)]

    def guard(self, text: str) -> str:
        """A text in which the tokenizer finds no special token."""
        return self.special.sub(lambda match: GUARD + GUARD.join(match[0]) + GUARD, text)

    def special_in(self, example: Example) -> str | None:
        """The first special token that the texts of an example hold, which stays plain text."""
        return next((match[0] for text in texts_in(example.messages) if (match := self.special.search(text))), None)

    def find_anchor(self) -> str:
        """The special token put before later pieces, for tokenizers (SentencePiece's) that put a space before the start of a text."""
        for anchor in ("", self.tokenizer.eos_token):
            input_ids = self.tokenizer(f"{anchor}a", add_special_tokens=False).input_ids[bool(anchor) :]
            pieces = "".join(self.tokenizer.convert_ids_to_tokens(input_ids))
            if not (pieces.endswith("a") and len(pieces) > 1):
                return anchor
        raise ValueError(
            f"The tokenizer {self.template.name!r} puts a space before every piece of text, so prompt and response cannot be tokenised apart; load one with "
            '"legacy": false in its tokenizer_config.json (prepend_scheme "first" in its tokenizer.json), or another tokenizer.'
        )

    def find_stop_tokens(self) -> tuple[int, ...]:
        """The tokens that end a response: the tokenizer's, and those of plain responses and of tool calls."""
        ends = [end for found in (self.ends, self.ends_of_calls) for end in found if end]
        return tuple(dict.fromkeys((self.eos_token_id, *(self.tokenize(end, start=False)[-1] for end in ends))))


def is_response(message: Message) -> bool:
    return message["role"] == "assistant" and bool(content_text(message).strip() or message.get("tool_calls"))


def join_weights(rows: Sequence[Encoded]) -> np.ndarray | None:
    """The weights of many rows one after the other, float32; None where no row has any."""
    if all(row.weights is None for row in rows):
        return None
    return np.concatenate([np.ones(len(row.input_ids), dtype=np.float32) if row.weights is None else row.weights for row in rows])


def without_middle(text: str, cut: int) -> str:
    length = max(0, len(text) - cut)
    return text[: length - length // 2] + text[len(text) - length // 2 :]  # tasks stand at the start or at the end


def refusal(template: ChatTemplate, index: int, turn: AssistantTurn | Mismatch, whole: str) -> str:
    """The sentence about a turn that cannot be learned, with the place where two renders part."""
    if isinstance(turn, Mismatch):
        return (
            f"T{str(template)[1:]} does not render turn {index} as a continuation of its own generation prompt, so training would not match generation: {turn}"
        )
    parts = Mismatch(turn.before + turn.text, whole)
    return f"T{str(template)[1:]} rewrites turn {index} once later turns follow, so it cannot be learned together with them: {parts}"
