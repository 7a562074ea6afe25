"""The base model's own samples as training rows, for replay where its training data are not published."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from lightning.pytorch import Trainer

from lit_talr.data.batch_plan import Batching
from lit_talr.data.encoder import ChatEncoder
from lit_talr.data.encoding import Encoding
from lit_talr.data.example import Example, Split
from lit_talr.data.tokenizer import tokenizer_hash
from lit_talr.domains.base import DomainDataModule, check_plain, format_counts
from lit_talr.metrics.base import DomainMetric
from lit_talr.modeling.generation import Generation
from lit_talr.modeling.strategies import shards_weights
from lit_talr.training.base_model import BaseModel
from lit_talr.training.base_samples import ROWS, Sample, Sampling, sample_conversations, user_turn
from lit_talr.utils.cache import ContentCache, Entry, read_or_compute
from lit_talr.utils.errors import check_in, check_least
from lit_talr.utils.files import read_json_lines, write_json_lines
from lit_talr.utils.score import DIGITS
from lit_talr.utils.waiting import on_rank_zero

FORMAT = "1"
"""Part of every key; raise it when the same content would give other samples."""
FILE = "own_samples.jsonl"


@dataclass(eq=False, repr=False)
class OwnSamples(DomainDataModule):
    """Conversations that the base model writes itself, for ``replay.general`` of a domain: a user's turn, then a response to it.

    Unless prompts are given, the user's turn is sampled after the text that the chat template writes before one, up to the text that ends it. The response
    is sampled after the prompt that training and tests see. Without a chat template, turns are joined by a blank line: so a text is sampled from BOS (or
    EOS, where there is no BOS), its first paragraph is the prompt, and the rest, up to the end token, is learned.

    Of the sampled conversations those are left out, in this order, whose prompt or response is empty or has not ended, which cannot be encoded, which are
    short or repeat themselves, and in which the base model has least confidence. The counts are in the lines at the start. A special token inside a turn
    is dropped from its text.

    Rank zero samples before training, in the arithmetic of training, once for each base model, tokenizer and sampling: samples are cached in ``.cache/``
    next to the run folder, so other filters need none. All of them are in ``own_samples.jsonl`` of the run folder, each with why it was left out. A resumed
    run reads them there.

    Source: On-Policy Replay (OPR, https://arxiv.org/abs/2605.29495) replays responses of the newest checkpoint to prompts of earlier tasks (temperature .1,
    up to 512 tokens, in its code), by the highest mean log-probability (OPR-SC) or the task's own metric (OPR-RU), with a buffer of 1 % or 10 % of 5,000
    rows. SSR (https://arxiv.org/abs/2403.01244) writes prompts from examples in its context. Both have data of what is to be remembered; whoever fine-tunes a
    published model has none. So prompts are sampled from the template's own prefix, as Magpie does (https://arxiv.org/abs/2406.08464; it needs an
    aligned model). That combination, the response's temperature of 1, the share of confident samples and the filters of length and repetition are ours.

    Args:
        num_samples: Conversations that are sampled, at least 1; by default more than half of them are left out.
        seed: Seed of the sampling.
        prompt_tokens: Most tokens of a user's turn, at least 1.
        response_tokens: Most tokens of a response, at least 1.
        temperature: That of the response's tokens: 1 samples from the model as it is, 0 is greedy decoding; the user's turn is always sampled at 1.
        prompts_of: A data module whose training rows' prompts are answered, each row before any again, in place of sampled ones, as OPR does; it takes no
            ``tokenizer``, ``encoding`` and ``batching`` of its own. For a model that has learned responses alone, and so writes no prompts.
        least_tokens: Fewest tokens of a response with its end of turn, at least 1.
        max_repetition: Largest share of a response's passages of four tokens that occurred in it before, in [0, 1]; 1 leaves none out.
        most_confident: Share of the samples to keep, in (0, 1]: those with the highest mean log-probability of a response's tokens under the base model;
            1 keeps all.

    Raises:
        ValueError: For a number out of range; at start-up for random weights, where every weight is sharded, where the conversation is longer than the
            model's positions, and where an epoch takes more rows than are left.
    """

    num_samples: int = 2048
    seed: int = 0
    prompt_tokens: int = 128
    response_tokens: int = 512
    temperature: float = 1.0
    prompts_of: Callable[[str | None, str | None, Encoding, Batching], DomainDataModule] | None = None
    least_tokens: int = 2
    max_repetition: float = 0.3
    most_confident: float = 0.5

    source_name = "samples of the base model"
    license = "that of the base model"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in {"num_samples": 1, "seed": 0, "prompt_tokens": 1, "response_tokens": 1, "least_tokens": 1}.items():
            check_least(name, getattr(self, name), least)
        check_in("max_repetition", self.max_repetition, "[0, 1]", "1 leaves none out")
        check_in("most_confident", self.most_confident, "(0, 1]", "1 keeps all")
        self.sampling = Sampling(self.seed, Generation(self.prompt_tokens, 1.0), Generation(self.response_tokens, self.temperature))
        self.source_of_prompts = self.prompts_of and self.prompts_of(self.tokenizer, self.tokenizer_revision, self.encoding, self.batching)
        if self.source_of_prompts:
            check_plain("data.replay.general.prompts_of", self.source_of_prompts)
        self.num_kept = 0

    def metric(self) -> DomainMetric:
        raise ValueError("`OwnSamples` are training rows; give them to a domain, as `data.replay.general`.")

    def examples(self, split: Split) -> Sequence[Example]:
        """Samples the training rows, or reads them. Collective."""
        if split != "train":
            self.metric()
        module = self.trainer.lightning_module
        if module.pretrained is None or module.architecture is not None:
            raise ValueError("`OwnSamples` come from the base model, and a run from random weights has none; give `model.pretrained`, or other rows to replay.")
        prompts = self.given_prompts()
        key, samples = read_or_sample(self.trainer, module.base_model(), self.encoder, self.sampling, self.num_samples, prompts)
        why = left_out(samples, self.least_tokens, self.max_repetition, self.most_confident)
        self.counts["train"].update(reason for reason in why if reason)
        if self.trainer.is_global_zero:
            write_samples(Path(self.trainer.default_root_dir) / FILE, key, samples, why)
        self.num_kept = why.count(None)
        self.check_enough(1)
        asked = prompts or [Example((), ())] * len(samples)
        return [
            replace(asked[index], messages=drawn.messages, supervised=(len(drawn.messages) - 1,), meta={"where": f"{FILE}: row {index + 1}"})
            for index, drawn in enumerate(samples)
            if why[index] is None
        ]

    def given_prompts(self) -> list[Example]:
        """A prompt for each sample, where they are given: all of them in a random order, then all again."""
        if self.source_of_prompts is None:
            return []
        self.source_of_prompts.trainer = self.trainer
        examples = self.source_of_prompts.examples("train")
        order = np.random.default_rng(self.seed).permutation(len(examples))
        chosen = [examples[order[index % len(order)]] for index in range(self.num_samples)]
        return [Example(example.prompt, (), tools=example.tools, template_arguments=example.template_arguments) for example in chosen]

    def check_enough(self, num_rows: int) -> None:
        """Refuses too few samples.

        Raises:
            ValueError: With the counts and the way out.
        """
        if self.num_kept < num_rows:
            raise ValueError(
                f"An epoch takes {num_rows:,} of the base model's own samples, and {self.num_kept:,} of {self.num_samples:,} are left "
                f"({format_counts(self.counts['train'])}); raise `data.replay.general.num_samples`, loosen a filter, or lower `data.replay.share`."
            )


def left_out(samples: Sequence[Sample], least_tokens: int, max_repetition: float, most_confident: float) -> list[str | None]:
    """Why each sample is left out, None for those that are kept; of two that are equally confident the first is kept."""
    why = [drawn.fault or rule(drawn, least_tokens, max_repetition) for drawn in samples]
    rest = sorted((index for index, reason in enumerate(why) if reason is None), key=lambda index: -samples[index].confidence)
    for index in rest[math.ceil(most_confident * len(rest)) :]:
        why[index] = "less confident"
    return why


def rule(drawn: Sample, least_tokens: int, max_repetition: float) -> str | None:
    """Why a sample is left out whatever the others are."""
    return "short" if drawn.num_tokens < least_tokens else "repetitive" if drawn.repetition > max_repetition else None


def read_or_sample(
    trainer: Trainer, base: BaseModel, encoder: ChatEncoder, sampling: Sampling, number: int, prompts: Sequence[Example]
) -> tuple[str, list[Sample]]:
    """Reads the samples from the cache or the run folder, or else samples them; gives the hash of what they depend on too. Collective.

    Raises:
        ValueError: Where every weight is sharded, unless they can be read.
    """
    options = encoder.encoding
    about = [base.identity(trainer), tokenizer_hash(encoder.tokenizer), *user_turn(encoder), repr(sorted(options.template_arguments.items()))]
    about += [str(options.max_length), options.too_long, repr(sampling), str(number), str(ROWS)]
    about += [repr((list(prompt.messages), list(prompt.tools), dict(prompt.template_arguments))) for prompt in prompts]
    cache = ContentCache(trainer.default_root_dir, "own-samples", FORMAT, *about)
    file = Path(trainer.default_root_dir) / FILE

    def compute() -> Entry:
        samples = on_rank_zero(trainer, lambda: read_samples(file, cache.key), f"reads {file}")
        if samples is None and shards_weights(trainer.strategy):
            raise ValueError(
                "`OwnSamples` are not sampled where every weight is sharded (ZeRO-3, FSDP2); start the same line once with configs/strategy/zero2.yaml, "
                "`--trainer.max_steps 1` and another `--run` next to this one: they are then in the cache that this run reads."
            )
        return Entry(record=samples or sample_conversations(trainer, base, encoder, sampling, number, prompts))

    return cache.key, [Sample(*values) for values in read_or_compute(trainer, cache, compute).record]


def write_samples(file: Path, key: str, samples: Sequence[Sample], why: Sequence[str | None]) -> None:
    """Writes a row for each sample, with why it is left out and the hash of what it depends on."""
    write_json_lines(file, [{**drawn._asdict(), "left_out": reason, "key": key[:DIGITS]} for drawn, reason in zip(samples, why, strict=True)])


def read_samples(file: Path, key: str) -> list[Sample] | None:
    """The samples in a file; None where it is not there, or its samples depend on something else."""
    rows = read_json_lines(file) if file.is_file() else []
    return [Sample(*(row[name] for name in Sample._fields)) for row in rows] if rows and all(row.get("key") == key[:DIGITS] for row in rows) else None
