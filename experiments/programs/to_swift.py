"""Writes a set as ms-swift reads it: JSON lines of messages and images, with the image files beside them."""

import json
import os
import sys

import dataset


def main():
    folder, out = sys.argv[1:]
    _, samples = dataset.read(folder)
    os.makedirs(os.path.join(out, "images"))
    with open(os.path.join(out, "train.jsonl"), "w") as file:
        for sample in samples:
            pixels, entry = dataset.image(folder, sample)
            if entry["format"] == "rgb8":
                # A format that needs no library: a line of text before the pixels.
                pixels = b"P6 %d %d 255\n" % (entry["width"], entry["height"]) + pixels
            # Relative: the list is the same wherever it lies.
            path = "images/" + sample["id"] + (".ppm" if entry["format"] == "rgb8" else "." + entry["format"])
            with open(os.path.join(out, path), "wb") as image:
                image.write(pixels)
            messages = [{"role": "user", "content": sample["prompt"]}, {"role": "assistant", "content": sample["answer"]}]
            print(json.dumps({"messages": messages, "images": [path]}), file=file)


main()
