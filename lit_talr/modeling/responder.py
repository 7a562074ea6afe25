"""Generates responses by the engine that the settings name."""

from collections.abc import Sequence

import torch
from transformers import GenerationConfig

from lit_talr.data.encoder import ChatEncoder
from lit_talr.modeling.backbone import Backbone
from lit_talr.modeling.generation import Generation, Response, generate
from lit_talr.modeling.vllm_engine import VLLMEngine


class Responder:
    """Generates by transformers on the model in memory, or by vLLM on a model folder.

    Args:
        pretrained: Folder or hub name that vLLM reads.
        revision: Commit, tag or branch of a hub model.
        arithmetic: That of the run's scores in words, in which vLLM computes; the model in memory is already in it.
    """

    def __init__(self, pretrained: str | None, revision: str | None, arithmetic: str) -> None:
        self.pretrained = pretrained
        self.revision = revision
        self.arithmetic = arithmetic
        self.vllm: VLLMEngine | None = None  # loaded on first use

    def respond(self, backbone: Backbone, encoder: ChatEncoder, prompts: Sequence[Sequence[int]], settings: Generation) -> list[Response]:
        """Generates one response for each prompt, in order."""
        stop_token_ids = stop_tokens(backbone.model.generation_config, encoder)
        if settings.engine == "transformers":
            return generate(backbone.model, encoder.tokenizer, prompts, stop_token_ids, settings)
        if self.vllm is None:
            assert self.pretrained is not None
            backbone.cpu()  # vLLM holds the weights a second time, and needs the memory
            torch.cuda.empty_cache()
            self.vllm = VLLMEngine(self.pretrained, self.revision, self.arithmetic)
        return self.vllm.generate(encoder.tokenizer, prompts, stop_token_ids, settings)


def stop_tokens(published: GenerationConfig | None, encoder: ChatEncoder) -> tuple[int, ...]:
    """The tokens that end a response: the encoder's, and those of the model's generation_config.json.

    Settings that transformers derives from a model's configuration name no tokens that anybody chose.
    """
    if published is None or getattr(published, "_from_model_config", False) or published.eos_token_id is None:
        return encoder.stop_token_ids
    own = published.eos_token_id if isinstance(published.eos_token_id, list) else [published.eos_token_id]
    return tuple(dict.fromkeys((*encoder.stop_token_ids, *own)))
