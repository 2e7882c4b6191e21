"""Makes a Hugging Face folder in the shape of Qwen2.5-VL: configuration, random weights, images to benchmark with.

Tokenizer, chat template and image settings come from an existing folder (`--from`). Sizes: `2m` (2.1 million
parameters, to count copies and launches on a driver that does a GPU's work on the processor), `50m` (50.3 million, the
benchmark on the processor), `3b` (those that are published for Qwen2.5-VL-3B-Instruct). With `--no-weights` only the
configuration is written; `dcsft` and `qwen_peer.py` then make random weights themselves.
"""
import argparse, json, shutil
from pathlib import Path

import numpy as np
from PIL import Image

SIZES = {
    "2m": {
        "text": dict(hidden_size=128, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
                     intermediate_size=384, vocab_size=1024, mrope_section=[4, 6, 6]),
        "vision": dict(depth=4, hidden_size=128, num_heads=4, intermediate_size=256, out_hidden_size=128,
                       fullatt_block_indexes=[1, 3], window_size=112),
    },
    "50m": {
        "text": dict(hidden_size=512, num_hidden_layers=8, num_attention_heads=8, num_key_value_heads=2,
                     intermediate_size=1536, vocab_size=16384, mrope_section=[8, 12, 12]),
        "vision": dict(depth=8, hidden_size=384, num_heads=6, intermediate_size=1024, out_hidden_size=512,
                       fullatt_block_indexes=[3, 7], window_size=112),
    },
    "3b": {
        "text": dict(hidden_size=2048, num_hidden_layers=36, num_attention_heads=16, num_key_value_heads=2,
                     intermediate_size=11008, vocab_size=151936, mrope_section=[16, 24, 24]),
        "vision": dict(depth=32, hidden_size=1280, num_heads=16, intermediate_size=3420, out_hidden_size=2048,
                       fullatt_block_indexes=[7, 15, 23, 31], window_size=112),
    },
}
# All that a folder has beside configuration and weights.
FILES = ["tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "chat_template.json",
         "chat_template.jinja", "preprocessor_config.json", "generation_config.json", "special_tokens_map.json",
         "added_tokens.json"]
TOKENS = ["bos_token_id", "eos_token_id", "pad_token_id", "image_token_id", "video_token_id",
          "vision_start_token_id", "vision_end_token_id"]


def configuration(size, source):
    """config.json in the published, flat layout, with the special tokens of `source`."""
    text, vision = dict(SIZES[size]["text"]), SIZES[size]["vision"]
    given = json.loads((source / "config.json").read_text())
    flat = {**given.get("text_config", {}), **given}
    assert flat["vocab_size"] <= text["vocab_size"], "the tokenizer has more tokens than the shape has rows"
    sections = text.pop("mrope_section")
    return {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        **{name: flat[name] for name in TOKENS if flat.get(name) is not None},
        **text,
        "hidden_act": "silu",
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "max_position_embeddings": 128000,
        "max_window_layers": text["num_hidden_layers"],
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "rope_scaling": {"type": "mrope", "mrope_section": sections},
        "sliding_window": 32768,
        "use_sliding_window": False,
        "use_cache": True,
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        "vision_config": {"model_type": "qwen2_5_vl", "hidden_act": "silu", "in_chans": 3, "patch_size": 14,
                          "spatial_patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2,
                          "tokens_per_second": 2, **vision},
    }


def photographs(folder, count, side):
    """Noise at several scales: as hard to compress as a photograph, and different from image to image."""
    folder.mkdir(exist_ok=True)
    for index in range(count):
        draw = np.random.default_rng(index)
        layers = [Image.fromarray(draw.integers(0, 256, (n, n, 3), np.uint8)).resize((side, side), Image.BICUBIC)
                  for n in (4, 16, 64)]
        mixed = np.mean([np.asarray(layer, np.float32) for layer in layers], axis=0)
        Image.fromarray(mixed.astype(np.uint8)).save(folder / f"{index}.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--from", dest="source", type=Path, required=True, help="a folder of a Qwen2.5-VL checkpoint")
    parser.add_argument("--size", choices=SIZES, default="50m")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--side", type=int, default=224, help="of the images, in pixels")
    parser.add_argument("--no-weights", action="store_true")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        if (options.source / name).exists():
            shutil.copy(options.source / name, options.folder / name)
            (options.folder / name).chmod(0o644)
    photographs(options.folder / "images", options.images, options.side)
    config = configuration(options.size, options.source)
    (options.folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    if options.no_weights:
        print(json.dumps({"folder": str(options.folder), "size": options.size, "parameters": None}))
    else:
        import torch
        from transformers import AutoConfig, Qwen2_5_VLForConditionalGeneration

        torch.manual_seed(0)
        model = Qwen2_5_VLForConditionalGeneration(AutoConfig.from_pretrained(options.folder)).float()
        model.save_pretrained(options.folder)
        if (options.source / "generation_config.json").exists():
            shutil.copyfile(options.source / "generation_config.json", options.folder / "generation_config.json")
        count = sum(parameter.numel() for parameter in model.parameters())
        print(json.dumps({"folder": str(options.folder), "size": options.size, "parameters": count}))
