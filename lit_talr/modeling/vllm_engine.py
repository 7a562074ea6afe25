"""Generates responses by vLLM: many times faster on a GPU, from a model folder only, for ``test``."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from lit_talr.modeling.generation import Generation, Response, respond_to_prompts, to_response

DTYPES = {"fp32": "float32", "bf16 weights": "bfloat16", "fp16 weights": "float16"}
"""vLLM's dtypes by the arithmetic of scores."""


class VLLMEngine:
    """Responds as ``generate`` does, with the same settings. It sums in another order, so near ties may fall otherwise.

    Args:
        pretrained: Model folder or hub name.
        revision: Commit, tag or branch of a hub model.
        arithmetic: The arithmetic of the run's scores, a key of ``DTYPES``.

    Raises:
        ValueError: Where vLLM is not installed, or for an arithmetic that it does not support.
    """

    def __init__(self, pretrained: str, revision: str | None, arithmetic: str) -> None:
        if arithmetic not in DTYPES:
            raise ValueError(f"`generation.engine: vllm` computes in {', '.join(DTYPES)}, not in {arithmetic}; set `model.arithmetic` to fp32 or bf16.")
        try:
            from vllm import LLM, SamplingParams
        except ImportError as error:
            raise ValueError("`generation.engine: vllm` needs vLLM, which is not installed: `pip install vllm`, or leave `engine` out.") from error
        self.sampling = SamplingParams
        self.llm = LLM(
            model=pretrained,
            revision=revision,
            dtype=DTYPES[arithmetic],
            trust_remote_code=False,
            limit_mm_per_prompt={"image": 0},  # Gemma 3's vision tower is not used
            generation_config="vllm",  # ignore the model's settings
            gpu_memory_utilization=0.8,
        )

    def generate(
        self, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Sequence[int]], stop_token_ids: Sequence[int], settings: Generation
    ) -> list[Response]:
        """Generates one response for each prompt, as ``generation.generate`` does."""
        sampling = self.sampling(
            temperature=settings.temperature,
            top_p=settings.top_p,
            top_k=settings.top_k or -1,
            max_tokens=settings.max_new_tokens,
            repetition_penalty=1.0,
            stop_token_ids=list(stop_token_ids),
            ignore_eos=True,  # only our stop tokens end a response
            detokenize=False,
        )

        def respond(fitting: list[Sequence[int]]) -> list[Response]:
            outputs = self.llm.generate([{"prompt_token_ids": list(prompt)} for prompt in fitting], sampling, use_tqdm=False)
            return [to_response(tokenizer, list(output.outputs[0].token_ids), stop_token_ids) for output in outputs]

        return respond_to_prompts(prompts, respond)
