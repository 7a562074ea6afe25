"""Speed of generation in ``test``: python -m benchmarks.generate [--answers 256]

The embedded base model responds to Clinic's test prompts, greedily, with at most 24 tokens each: one at a time, and many at once, in the order of the data
and sorted by length as ``test`` does. Only tokens of responses count; padding costs time and counts for nothing. Times are wall times of the second of two
rounds.
"""

import argparse
import time

import numpy as np

from lit_talr.data.batch_plan import Batching, BatchPlan
from lit_talr.lab import Clinic
from lit_talr.modeling.generation import Generation, generate
from lit_talr.modeling.loading import load_model

LAB = "lit_talr/lab/base"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=256)
    arguments = parser.parse_args()
    data = Clinic(LAB, test_size=arguments.answers)
    model, tokenizer, stops = load_model(LAB, None, None, 0, None), data.encoder.tokenizer, data.encoder.stop_token_ids
    data.prompts["test"] = [data.encoder.encode_prompt(example.prompt)[0] for example in data.examples("test")]
    prompts = data.prompts["test"]
    print("| prompts at once | order | seconds | answers/s | tokens/s |\n|---|---|---|---|---|")
    for size in (1, 8, 64):
        orders = {"of the data": [tuple(range(first, min(first + size, len(prompts)))) for first in range(0, len(prompts), size)]}
        if size > 1:
            lengths = np.array([len(prompt) for prompt in prompts])
            orders["by length"] = [part.ids for part in BatchPlan(lengths, lengths, Batching(len(prompts), size), shuffle=False)]
        for name, batches in orders.items():
            for _ in range(2):
                start, tokens = time.perf_counter(), 0
                for batch in batches:
                    answers = generate(model, tokenizer, [prompts[index] for index in batch], stops, Generation(max_new_tokens=24))
                    tokens += sum(answer.num_tokens for answer in answers)
                seconds = time.perf_counter() - start
            print(f"| {size} | {name} | {seconds:.1f} | {len(prompts) / seconds:.1f} | {tokens / seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
