"""Makes a Hugging Face folder in the shape of SmolVLM2-256M: configuration, random weights, images to benchmark with.

Tokenizer and chat template come from an existing folder of the family (`--from`). `--size tiny` is a shape of a few
thousand parameters, for smoke runs. Images have one tile (`size.longest_edge` is the tile's side), as
`experiments/smolvlm.yaml` has them. With `--no-weights` only the files are written; `init: random` makes the weights.
"""
import argparse, json
from pathlib import Path

from qwen_shape import photographs

SIZES = {
    "256m": {
        "text": dict(hidden_size=576, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3, head_dim=64,
                     intermediate_size=1536, vocab_size=49280, max_position_embeddings=8192),
        "vision": dict(hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072,
                       image_size=512, patch_size=16),
        "scale_factor": 4,
    },
    "tiny": {
        "text": dict(hidden_size=24, num_hidden_layers=2, num_attention_heads=3, num_key_value_heads=1, head_dim=8,
                     intermediate_size=48, vocab_size=512, max_position_embeddings=512),
        "vision": dict(hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, image_size=32,
                       patch_size=8),
        "scale_factor": 2,
    },
}
FILES = ["tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "chat_template.json",
         "chat_template.jinja", "special_tokens_map.json", "added_tokens.json", "generation_config.json"]


def configuration(size, source):
    """config.json in the published layout, with the special tokens of `source`."""
    shape = SIZES[size]
    given = json.loads((source / "config.json").read_text())
    assert given["text_config"]["vocab_size"] <= shape["text"]["vocab_size"], "the tokenizer has too many tokens"
    tokens = {name: given["text_config"][name] for name in ["bos_token_id", "eos_token_id", "pad_token_id"]
              if name in given["text_config"]}
    return {
        "architectures": ["SmolVLMForConditionalGeneration"],
        "model_type": "smolvlm",
        "image_token_id": given["image_token_id"],
        "scale_factor": shape["scale_factor"],
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "vocab_size": shape["text"]["vocab_size"],
        "text_config": {"model_type": "llama", "rms_norm_eps": 1e-05, "rope_theta": 100000.0, "hidden_act": "silu",
                        "initializer_range": 0.04, "tie_word_embeddings": False, **tokens, **shape["text"]},
        "vision_config": {"model_type": "smolvlm_vision", "layer_norm_eps": 1e-06,
                          "hidden_act": "gelu_pytorch_tanh", **shape["vision"]},
    }


def settings(size):
    shape = SIZES[size]
    tile = shape["vision"]["image_size"]
    return {
        "image_processor_type": "SmolVLMImageProcessor", "do_convert_rgb": True, "do_image_splitting": True,
        "do_normalize": True, "do_pad": True, "do_rescale": True, "do_resize": True, "resample": 1,
        "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "rescale_factor": 1 / 255,
        "max_image_size": {"longest_edge": tile}, "size": {"longest_edge": tile},
    }


def tokens_of_a_tile(size):
    vision = SIZES[size]["vision"]
    return (vision["image_size"] // vision["patch_size"] // SIZES[size]["scale_factor"]) ** 2


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--from", dest="source", type=Path, required=True, help="a folder of a SmolVLM2 checkpoint")
    parser.add_argument("--size", choices=SIZES, default="256m")
    parser.add_argument("--no-weights", action="store_true")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        if (options.source / name).exists():
            (options.folder / name).write_bytes((options.source / name).read_bytes())
    config = configuration(options.size, options.source)
    (options.folder / "config.json").write_text(json.dumps(config, indent=1))
    (options.folder / "preprocessor_config.json").write_text(json.dumps(settings(options.size), indent=1))
    processor = {"image_seq_len": tokens_of_a_tile(options.size), "processor_class": "SmolVLMProcessor"}
    (options.folder / "processor_config.json").write_text(json.dumps(processor))
    photographs(options.folder / "images", 8, 224)
    if not options.no_weights:
        import torch
        from transformers import AutoConfig, AutoModelForImageTextToText

        torch.manual_seed(0)
        shape = AutoConfig.from_pretrained(options.folder)
        AutoModelForImageTextToText.from_config(shape).save_pretrained(options.folder)
        (options.folder / "config.json").write_text(json.dumps(config, indent=1))
