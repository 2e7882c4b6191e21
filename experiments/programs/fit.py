"""A trainer of one's own: fits softmax regression to coloured blocks and measures it on sets that it has not seen."""

import argparse
import json
import math
import os

import dataset
from softmax import Softmax, drawn


def wilson(right, count, z=1.959963984540054):
    """The 95% interval of a share."""
    share = right / count
    middle = share + z * z / (2 * count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return [(middle - half) / (1 + z * z / count), (middle + half) / (1 + z * z / count)]


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--train", required=True)
    args.add_argument("--rate", type=float, required=True)
    args.add_argument("--epochs", type=int, required=True)
    args.add_argument("--seed", type=int, required=True)
    args.add_argument("--out", required=True)
    args.add_argument("sets", nargs="+")
    args = args.parse_args()

    _, samples = dataset.read(args.train)
    classes = sorted({sample["answer"] for sample in samples})
    rows = [(dataset.features(args.train, sample), classes.index(sample["answer"])) for sample in samples]
    model = Softmax(classes, len(rows[0][0]))
    order = drawn(args.seed, "order")
    for epoch in range(args.epochs):
        loss = model.epoch(rows, args.rate, order)
        print(json.dumps({"event": "progress", "done": epoch + 1, "total": args.epochs, "unit": "epoch",
                          "fields": {"loss": loss}}))

    with open(os.path.join(args.out, "metrics.jsonl"), "w") as file:
        for folder in args.sets:
            info, samples = dataset.read(folder)
            right, loss = 0, 0.0
            for sample in samples:
                shares = model.probabilities(dataset.features(folder, sample))
                right += classes[shares.index(max(shares))] == sample["answer"]
                loss -= math.log(max(shares[classes.index(sample["answer"])], 1e-12))
            count = len(samples)
            row = {"set": info["set"], "split": info["split"], "n": count}
            print(json.dumps(row | {"metric": "accuracy", "value": right / count, "ci": wilson(right, count)}), file=file)
            print(json.dumps(row | {"metric": "loss", "value": loss / count}), file=file)


main()
