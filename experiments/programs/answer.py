"""Stands in for vLLM: samples answers to every question of a set and writes them with their log-probabilities.

With vLLM the loop over samples is `llm.chat(...)` with `SamplingParams(n=..., temperature=..., logprobs=0)`, and a row is
written for each of its outputs, with `text`, `token_ids`, the log-probabilities of these and `finish_reason`.
"""

import argparse
import json
import math
import os

import dataset
from softmax import Softmax, drawn


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--learnt-from", required=True)
    args.add_argument("--data", required=True)
    args.add_argument("--n", type=int, required=True)
    args.add_argument("--temperature", type=float, required=True)
    args.add_argument("--seed", type=int, required=True)
    args.add_argument("--out", required=True)
    args = args.parse_args()

    _, samples = dataset.read(args.learnt_from)
    classes = sorted({sample["answer"] for sample in samples})
    rows = [(dataset.features(args.learnt_from, sample), classes.index(sample["answer"])) for sample in samples]
    model = Softmax(classes, len(rows[0][0]))
    for epoch in range(10):
        model.epoch(rows, 0.1, drawn(args.seed, "epoch", epoch))

    _, samples = dataset.read(args.data)
    with open(os.path.join(args.out, "answers.jsonl"), "w") as file:
        for done, sample in enumerate(samples):
            shares = model.probabilities(dataset.features(args.data, sample), args.temperature)
            for generation in range(args.n):
                draw = drawn(args.seed, sample["id"], generation)
                answer = draw.choices(range(len(classes)), shares)[0]
                row = {
                    "id": sample["id"],
                    "generation": generation,
                    "text": classes[answer],
                    "logprobs": [min(math.log(max(shares[answer], 1e-30)), 0.0)],
                    "finish_reason": "stop",
                }
                print(json.dumps(row), file=file)
            if done % 100 == 99:
                print(json.dumps({"event": "progress", "done": done + 1, "total": len(samples), "unit": "sample"}))


main()
