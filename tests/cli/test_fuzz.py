"""Generated inputs for what reads other people's text: answers of models, files of rows, conversations. Few by default, 100,000 where `slow` tests run."""

import csv
import gc
import gzip
import io
import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import count, pairwise
from pathlib import Path
from typing import Any, get_args

import datasets
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lit_talr.data.encoder import ChatEncoder
from lit_talr.data.encoding import Encoding
from lit_talr.data.example import Example, Message, Split
from lit_talr.data.messages import GUARD, MARK, ROLES
from lit_talr.domains import ESCI, GSM8K, MedCalc, MetaMathQA, Records
from lit_talr.domains.base import DomainDataModule
from lit_talr.metrics import ClassScores, DomainMetric, ExactMatch, MathMatch, MedCalcAccuracy, NumericMatch, WithinLimits
from lit_talr.metrics.medcalc import CATEGORIES
from lit_talr.metrics.number import calculate
from tests.helpers.esci_rows import esci_row
from tests.helpers.math_rows import gsm8k_row, metamath_row
from tests.helpers.medcalc_rows import medcalc_row
from tests.helpers.tiny import FAMILIES, byte_tokenizer


def few(size: int) -> settings:
    """The same ones each time."""
    return settings(max_examples=size, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def many(size: int) -> settings:
    return settings(max_examples=size, deadline=None, suppress_health_check=list(HealthCheck))


@contextmanager
def quick() -> Iterator[None]:
    """At most a second of this process's time, without the collector's; what never ends is stopped by pytest's own limit."""
    gc.disable()
    start = time.process_time()
    try:
        yield
        assert time.process_time() - start < 1
    finally:
        gc.enable()


# Answers


def asked(metric: DomainMetric, answer: object, **meta: object) -> tuple[DomainMetric, Example]:
    return metric, Example.from_prompt("?", "!", meta={"answer": answer, "where": "test.csv: row 1", **meta})


def medcalc(calculator_id: int, answer: str) -> tuple[DomainMetric, Example]:
    return asked(MedCalcAccuracy(), answer, calculator_id=calculator_id, lower="2.85", upper="3.15", category=CATEGORIES[0])


ASKED = [
    *(asked(ExactMatch(), truth) for truth in ("7", "!", "(a)", "\u0663")),
    asked(NumericMatch(), "3/4"),
    *(asked(MathMatch(), truth, category="MATH") for truth in ("7", r"\frac{\pi}{2}")),
    asked(ClassScores({"E": "Exact", "S": "Substitute"}), "E"),
    asked(WithinLimits(["a"]), "3", lower="2.85", upper="3.15", category="a"),
    *(medcalc(*one) for one in ((13, "01/02/2003"), (69, "(4, 1)"), (4, "3"), (5, "3"))),
]
PIECES = [
    *("0", "1", "9", "3.0", "7", ".", ",", ", 1", "-", "+", "*", "**", "/", "^", "%", "$", "#", "!", "=", "_", "e", "E", "1e", "e-", "\u2212", "\u00f7"),
    *("(", ")", "[", "]", "{", "}", '"', "'", ":", "\\", " ", "\t", "\n", "\r", "\0", "\u2028", "\ufeff", "\ud800", "\u0130", "\u0663", "\uff17", "\u00b2"),
    *('{"answer": "', '"answer": ', 'Answer":', '"}', "answer is ", "The answer is: ", "#### ", "####", r"\boxed{", r"\frac{", r"\frac{1}{2}", r"\sqrt{"),
    *(r"\!", "{,}", r"\left(", r"\text{", "str(", "round(", "int(", "float(", "max(", "pow(", "log(", "math.", "np.exp(", "abs(", "1e308", "1e-320"),
    *("10^400", "9**9**9", "10**10**10", "inf", "-Infinity", "nan", "NaN", "9" * 400, "1/0", "3/4", "01/02/2003", "13/45/2020", "4 weeks", "weeks", " out of "),
    *("mL/min/1.73", "mg/dl", "50%", "1,234", "1_000", "0x1F", "Exact", "E", "S", "null", "None", "True", "__import__('os')", "lambda:0", "();"),
]
WORDS = st.lists(st.sampled_from(PIECES), max_size=30).map("".join)
AGAIN = st.builds(
    lambda start, again, times, end: start + again * times + end,
    WORDS,
    st.lists(st.sampled_from(PIECES), min_size=1, max_size=3).map("".join),
    st.integers(1, 300),
    WORDS,
)
ANSWERS = st.one_of(st.text(max_size=200), WORDS, WORDS, AGAIN).flatmap(
    lambda text: st.sampled_from([text, f'{{"answer": "{text}"}}', f'{{"answer": str({text})}}'])
)


def assert_scored(answer: str) -> None:
    for metric, example in ASKED:
        with quick():
            judgement = metric.judge(answer, example)
        assert judgement["correct"] in (True, False)
        json.dumps(judgement)
        metric.update([answer], [example])
    with quick():
        value = calculate(answer)
    assert value is None or math.isfinite(value)


@few(50)
@given(ANSWERS)
def test_answers_are_scored(answer: str) -> None:
    assert_scored(answer)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@many(50_000)
@given(ANSWERS)
def test_very_many_answers_are_scored(answer: str) -> None:
    assert_scored(answer)


LONG = st.tuples(WORDS, st.lists(st.sampled_from(PIECES), min_size=1, max_size=4).map("".join), WORDS).map(lambda t: t[0] + t[1] * (30_000 // len(t[1])) + t[2])


@pytest.mark.slow
@pytest.mark.timeout(3600)
@many(1_000)
@given(LONG)
def test_long_answers_are_scored(answer: str) -> None:
    for text in (answer, f'{{"answer": "{answer}"}}', rf"\boxed{{{answer}}}"):
        assert_scored(text)


# Files of rows

VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.sampled_from(["2020-01-01", "", " ", "a\nb", "7", "\x00"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "content", "a", "\n"]), inner, max_size=3),
    max_leaves=8,
)
TEXT = st.text(min_size=1, max_size=20)
TURN = st.fixed_dictionaries({"role": st.sampled_from([*ROLES, "human"]) | VALUES, "content": TEXT | VALUES})
ROW = st.fixed_dictionaries({}, optional={"prompt": TEXT | VALUES, "response": TEXT | VALUES, "messages": st.lists(TURN, max_size=4) | VALUES, "id": VALUES})
GOOD_ROW = st.fixed_dictionaries({"prompt": TEXT, "response": TEXT, "messages": st.lists(TURN, min_size=1, max_size=4)})
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1", "cp1252", "shift_jis")


def written(rows: Sequence[dict[str, Any]], kind: str) -> bytes | None:
    if kind == "parquet":
        try:
            buffer = io.BytesIO()
            datasets.Dataset.from_list([*rows], on_mixed_types="use_json").to_parquet(buffer)
            return buffer.getvalue()
        except (ValueError, TypeError, OverflowError, NotImplementedError):  # Arrow cannot hold such rows
            return None
    if kind == "csv":
        out = io.StringIO(newline="")
        writer = csv.writer(out)
        names = [*dict.fromkeys(name for row in rows for name in row)]
        writer.writerow(names)
        writer.writerows([[row.get(name, "") for name in names] for row in rows])
        return out.getvalue().encode(errors="replace")
    text = json.dumps(rows) if kind == "json" else "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    return text.encode(errors="replace")


@st.composite
def files(draw: st.DrawFn) -> tuple[str, bytes]:
    """A file's ending and content: rows as they should be, in another encoding, or with bytes that were changed, lost or added."""
    kind = draw(st.sampled_from(["jsonl", "jsonl", "csv", "csv", "json", "parquet"]))
    content = written(draw(st.lists(draw(st.sampled_from([ROW, GOOD_ROW])), max_size=4)), kind) or b""
    damage = draw(st.sampled_from(["none", "encoding", "bytes", "other"]))
    if damage == "encoding" and kind != "parquet":
        content = content.decode().encode(draw(st.sampled_from(ENCODINGS)), errors="replace")
    elif damage == "bytes":
        for _ in range(draw(st.integers(1, 3))):
            start, size = draw(st.integers(0, len(content))), draw(st.integers(0, 4))
            added = draw(st.binary(max_size=4) | st.sampled_from([b'"', b",", b"\n", b"\r", b"{", b"[" * 2000, b"\0", b"\xff"]))
            content = content[:start] + added + content[start + size :]
    elif damage == "other":
        content = draw(st.binary(max_size=60))
    zipped = kind != "parquet" and draw(st.integers(0, 4)) == 0
    if zipped:
        content = gzip.compress(content, mtime=0)
        content = content[: len(content) - draw(st.sampled_from([0, 0, 1, 9, 12]))]
    return kind + ".gz" * zipped, content


NUMBERS = count()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for files, and for what `datasets` keeps of them."""
    folder = tmp_path_factory.mktemp("rows")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
        yield folder


def assert_read_or_named(folder: Path, file: tuple[str, bytes]) -> None:
    path = folder / f"{next(NUMBERS)}.{file[0]}"
    path.write_bytes(file[1])
    for options in ({}, {"messages": "messages", "turns": "all"}):
        with quick():
            examples = read_or_named(Records("x", train=str(path), **options), "train", path)
        for example in examples:
            assert example.supervised and all(isinstance(message["content"], str) for message in example.messages)
    path.unlink()


def read_or_named(data: DomainDataModule, split: Split, path: Path) -> Sequence[Example]:
    try:
        return data.examples(split)
    except ValueError as error:
        message = str(error)
        assert message.startswith(str(path)) and "\n" not in message and len(message) < 1000
        return []


@few(50)
@given(files())
def test_files_are_read_or_named(place: Path, file: tuple[str, bytes]) -> None:
    assert_read_or_named(place, file)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@many(9_000)
@given(files())
def test_very_many_files_are_read_or_named(place: Path, file: tuple[str, bytes]) -> None:
    assert_read_or_named(place, file)


DOMAINS: dict[str, Any] = {
    "esci": partial(ESCI, validation=0.5),
    "gsm8k": partial(GSM8K, validation=0.5),
    "medcalc": partial(MedCalc, validation=0.5),
    "metamath": partial(MetaMathQA, validation=0.3, test_share=0.3),
}
ROWS = {
    "esci": [esci_row("train", query, 0) for query in range(3)],
    "gsm8k": [gsm8k_row(number) for number in range(3)],
    "medcalc": [medcalc_row(number) for number in range(3)],
    "metamath": [metamath_row(number) for number in range(6)],
}
OTHERS = {"esci": esci_row("train", 9, 0), "gsm8k": gsm8k_row(9), "medcalc": medcalc_row(9), "metamath": metamath_row(9)}


@st.composite
def changed_rows(draw: st.DrawFn) -> tuple[str, list[dict[str, Any]]]:
    """Rows of a domain, of which one has another value in one column."""
    name = draw(st.sampled_from([*DOMAINS]))
    rows = [dict(row) for row in ROWS[name]]
    row = draw(st.sampled_from(rows))
    row[draw(st.sampled_from([*row]))] = draw(VALUES | WORDS)
    return name, rows


def assert_domain_reads_or_names(folder: Path, changed: tuple[str, list[dict[str, Any]]]) -> None:
    """As training and as test rows, each beside a good file of the other kind; what is read as a test row can be scored."""
    name, rows = changed
    if name == "esci":
        rows = [{column: value for column, value in row.items() if column != "split"} for row in rows]  # it would choose none
    number = next(NUMBERS)
    path, other = folder / f"{number}.jsonl", folder / f"{number}-other.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    other.write_text(json.dumps({column: value for column, value in OTHERS[name].items() if column != "split"}) + "\n")
    for split in get_args(Split):
        train, test = (other, path) if split == "test" and name != "metamath" else (path, other)
        data = DOMAINS[name]("x", train=str(train), **({} if name == "metamath" else {"test": str(test)}))
        with quick():
            examples = read_or_named(data, split, folder)
        if split == "test":
            data.metric().update([example.messages[-1]["content"] for example in examples], examples)
    path.unlink()
    other.unlink()


@few(12)
@given(changed_rows())
def test_domains_read_or_name_a_row(place: Path, changed: tuple[str, list[dict[str, Any]]]) -> None:
    assert_domain_reads_or_names(place, changed)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@many(1_000)
@given(changed_rows())
def test_domains_read_or_name_very_many_rows(place: Path, changed: tuple[str, list[dict[str, Any]]]) -> None:
    assert_domain_reads_or_names(place, changed)


# Conversations

GLM = (
    "{% for m in messages %}{{ '<|im_end|>' if m.role == 'assistant' else '<|im_start|>' }}\n{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_end|>\n{% endif %}"
)
PHI3 = (
    "{% for m in messages %}<start_of_turn>{{ m.role }}\n{{ m.content }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>assistant\n{% else %}{{ eos_token }}{% endif %}"
)
KINDS: dict[str, tuple[str, str | None, dict[str, Any], int]] = {  # family, template, its arguments, end of turn
    "qwen2": ("qwen2", None, {}, 258),
    "qwen3": ("qwen3", None, {}, 258),
    "qwen3-off": ("qwen3", None, {"enable_thinking": False}, 258),
    "llama3": ("llama3", None, {}, 260),
    "gemma2": ("gemma2", None, {}, 260),
    "gemma3": ("gemma3", None, {}, 260),
    "plain": ("plain", None, {}, 257),
    "plain-bos": ("plain-bos", None, {}, 257),
    "glm": ("qwen2", GLM, {}, 257),
    "phi3": ("gemma2", PHI3, {}, 260),
}
ENCODERS: dict[tuple[str, int], ChatEncoder] = {
    (kind, length): ChatEncoder(
        byte_tokenizer(family, template), Encoding(max_length=length, too_long="error" if length == 4096 else "truncate_prompt", template_arguments=arguments)
    )
    for kind, (family, template, arguments, _) in KINDS.items()
    for length in (160, 4096)
}
LOOK_ALIKES = [token for family in FAMILIES.values() for token in (*family.special, *family.added)]
BITS = st.sampled_from(
    [*LOOK_ALIKES, " ", "\n", "\t", "\x1c", "\u2028", ">", "user", "assistant", "assistant: ", "{{ 7 }}", "{% if %}", "\U0001f600", "e\u0301", "\0"]
)
SPEECH = st.lists(st.text(st.characters(codec="utf-8", exclude_characters=GUARD + MARK), max_size=12) | BITS, max_size=4).map("".join)
ODD = st.sampled_from(["", " ", GUARD, "a\ud800", "a" * 3000])


@st.composite
def conversations(draw: st.DrawFn) -> Example:
    """Users and assistants in turn, of whom some answers are learned; one in four has any turns in any order, and one in ten names what cannot be learned."""
    if draw(st.integers(0, 3)):
        roles = [*draw(st.sampled_from([[], ["system"]])), *(["user", "assistant"] * draw(st.integers(1, 3)))]
        said = st.builds(str.__add__, SPEECH, st.sampled_from("a>\u00e9"))
    else:
        roles = draw(st.lists(st.sampled_from(["user", "assistant", "assistant", "system", "tool"]), max_size=6))
        said = SPEECH | ODD
    messages = [Message(role=role, content=draw(said)) for role in roles]
    answers = [place for place, role in enumerate(roles) if place and role == "assistant"]
    if answers and draw(st.integers(0, 9)):
        return Example(messages, draw(st.sampled_from([(answers[-1],), tuple(answers), tuple(answers[:1])])))
    return Example(messages, tuple(draw(st.lists(st.integers(-2, 7), max_size=3))))


def learned_text(kind: str, content: str) -> str:
    """What a family's template gives an answer, without its end of turn."""
    if kind in ("llama3", "gemma2", "gemma3"):
        return content.strip()
    if kind.startswith("qwen3"):
        thought, *rest = content.split("</think>")
        thought = thought.split("<think>")[-1].strip("\n") if rest else ""
        return ("" if kind == "qwen3-off" else f"<think>\n{thought}\n</think>\n\n") + content.split("</think>")[-1].lstrip("\n")
    return content


REFUSALS = ("Turn ", "`supervised` must", "This has no supervised turn", "The conversation must", "The chat template of", "This has ")


def assert_masks_cover_the_learned_turns(example: Example, kind: str, length: int) -> bool:
    coder, end = ENCODERS[kind, length], KINDS[kind][3]
    if kind == "gemma3" and [message["role"] for message in example.messages[:2]] == ["system", "assistant"]:
        return False  # Google's own template refuses it; the tiny one opens the answer with the system's text
    try:
        with quick():
            row = coder.encode(example)
    except ValueError as error:
        assert str(error).startswith(REFUSALS)
        return False
    assert len(row.input_ids) == len(row.supervised) <= length
    edges = [0, *(place for place in range(1, len(row.supervised)) if row.supervised[place] != row.supervised[place - 1]), len(row.supervised)]
    runs = [(start, stop) for start, stop in pairwise(edges) if row.supervised[start]]
    assert len(runs) == len(example.supervised) and runs[-1][1] == len(row.input_ids)
    for turn, (start, stop) in zip(example.supervised, runs, strict=True):
        assert row.input_ids[stop - 1] == end
        assert coder.tokenizer.decode(row.input_ids[start : stop - 1]) == learned_text(kind, example.messages[turn]["content"])
        if not row.truncated:
            assert coder.encode_prompt(example.messages[:turn]) == (row.input_ids[:start].tolist(), 0)
    return True


CASES = st.tuples(conversations(), st.sampled_from([*KINDS]), st.sampled_from([4096, 4096, 160]))


@few(50)
@given(CASES)
def test_masks_cover_exactly_the_learned_turns(case: tuple[Example, str, int]) -> None:
    assert_masks_cover_the_learned_turns(*case)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@many(40_000)
@given(CASES)
def test_masks_cover_exactly_the_learned_turns_of_very_many_conversations(case: tuple[Example, str, int]) -> None:
    assert_masks_cover_the_learned_turns(*case)
