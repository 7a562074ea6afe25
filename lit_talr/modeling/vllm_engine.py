"""vLLM as the engine that generates: many times faster on a GPU, from a model folder only, for ``test``."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from lit_talr.modeling.generation import Generation, Response, respond_to_prompts, to_response

DTYPES = {"32-true": "float32", "bf16-mixed": "bfloat16", "bf16-true": "bfloat16", "16-mixed": "float16", "16-true": "float16"}


class VLLMEngine:
    """Answers as ``generate`` does, with the same settings; sums are taken in another order, so that near ties may fall otherwise.

    Args:
        pretrained: Model folder or hub name.
        revision: Commit, tag or branch of a hub model.
        precision: The trainer's; vLLM has its weights in the same dtype.

    Raises:
        ValueError: Where vLLM is not installed, or for a precision that it cannot have.
    """

    def __init__(self, pretrained: str, revision: str | None, precision: str) -> None:
        if precision not in DTYPES:
            raise ValueError(f"`generation.engine: vllm` needs `trainer.precision` to be one of {', '.join(DTYPES)}, got {precision}.")
        try:
            from vllm import LLM, SamplingParams
        except ImportError as error:
            raise ValueError("`generation.engine: vllm` needs vLLM, which is not installed: `pip install vllm`, or leave `engine` out.") from error
        self.sampling = SamplingParams
        self.llm = LLM(
            model=pretrained,
            revision=revision,
            dtype=DTYPES[precision],
            trust_remote_code=False,
            limit_mm_per_prompt={"image": 0},  # Gemma 3 has a vision tower that is not asked
            generation_config="vllm",  # a model's own settings are not read
            gpu_memory_utilization=0.8,
        )

    def generate(
        self, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Sequence[int]], stop_token_ids: Sequence[int], settings: Generation
    ) -> list[Response]:
        """One answer for each prompt, as ``generation.generate`` gives it."""
        sampling = self.sampling(
            temperature=settings.temperature,
            top_p=settings.top_p,
            top_k=settings.top_k or -1,
            max_tokens=settings.max_new_tokens,
            repetition_penalty=1.0,
            stop_token_ids=list(stop_token_ids),
            ignore_eos=True,  # only our own stop tokens end an answer
            detokenize=False,
        )

        def answer(given: list[Sequence[int]]) -> list[Response]:
            outputs = self.llm.generate([{"prompt_token_ids": list(prompt)} for prompt in given], sampling, use_tqdm=False)
            return [to_response(tokenizer, list(output.outputs[0].token_ids), stop_token_ids) for output in outputs]

        return respond_to_prompts(prompts, answer)
