"""Reads a set as dcsft keeps it: dataset.json, samples.jsonl and images.pack. Python's standard library is enough."""

import json
import os


def read(folder):
    """What the set says of itself, and its samples."""
    with open(os.path.join(folder, "dataset.json")) as file:
        info = json.load(file)
    with open(os.path.join(folder, "samples.jsonl")) as file:
        samples = [json.loads(line) for line in file]
    return info, samples


def image(folder, sample):
    """The bytes of a sample's first image, as they are stored, and what is known of it."""
    entry = sample["images"][0]
    with open(os.path.join(folder, "images.pack"), "rb") as file:
        file.seek(entry["offset"])
        return file.read(entry["bytes"]), entry


def features(folder, sample, blocks=4):
    """Mean red, green and blue of a grid of blocks, from -1 to 1, and a constant."""
    pixels, entry = image(folder, sample)
    if entry["format"] != "rgb8":
        raise SystemExit("this example reads uncompressed images only, not " + entry["format"])
    width, height = entry["width"], entry["height"]
    sums = [0] * (blocks * blocks * 3)
    counts = [0] * (blocks * blocks)
    for y in range(height):
        for x in range(width):
            block = (y * blocks // height) * blocks + x * blocks // width
            counts[block] += 1
            at = (y * width + x) * 3
            for channel in range(3):
                sums[block * 3 + channel] += pixels[at + channel]
    means = [total / counts[index // 3] / 127.5 - 1 for index, total in enumerate(sums)]
    return means + [1.0]
