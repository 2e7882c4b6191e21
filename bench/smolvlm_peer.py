"""SmolVLM2 with Transformers and PEFT: the peer that `bench_models` is measured against, on the same folder.

As `qwen_peer.py`, whose parts it takes: `lora` (adapters of rank 32 on the language model and the connector, the vision
tower frozen) in samples/s of whole training steps, `rollout` in tokens/s of sampling. BENCH_BATCH (default 8) samples.
"""
import argparse, json, resource, sys
from pathlib import Path

import qwen_peer
from qwen_peer import resident_mib, rollouts, training

import peft, torch, transformers
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

TARGETS = (r"^(model\.text_model\.layers\.\d+\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)"
           r"|model\.connector\.modality_projection\.proj)$")


def processor(folder):
    """The folder's processor, built by its parts: a folder need not have settings for videos."""
    jinja = folder / "chat_template.jinja"
    template = (jinja.read_text() if jinja.exists()
                else json.loads((folder / "chat_template.json").read_text())["chat_template"])
    images = AutoImageProcessor.from_pretrained(folder, backend="pil")
    tokens = json.loads((folder / "processor_config.json").read_text())["image_seq_len"]
    return transformers.SmolVLMProcessor(images, AutoTokenizer.from_pretrained(folder),
                                         transformers.SmolVLMVideoProcessor(), image_seq_len=tokens,
                                         chat_template=template)


def prompts(folder):
    process = processor(folder)
    images = [[Image.open(folder / "images" / f"{index}.png")] for index in range(qwen_peer.BATCH)]
    message = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": qwen_peer.QUESTION}]}]
    text = process.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
    return process(text=[text] * qwen_peer.BATCH, images=images, return_tensors="pt"), process.tokenizer


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("part", choices=["lora", "rollout"])
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--attention", choices=["eager", "sdpa"], default="sdpa")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    imported = resident_mib()
    inputs, tokenizer = prompts(options.folder)
    model = AutoModelForImageTextToText.from_pretrained(
        options.folder, dtype=torch.float32, attn_implementation=options.attention)
    loaded = resident_mib()
    if options.part == "rollout":
        measured = rollouts(model, inputs, options.seconds)
    else:
        lora = peft.LoraConfig(r=32, lora_alpha=64, lora_dropout=0.0, target_modules=TARGETS)
        model = peft.get_peft_model(model, lora)
        measured = training(model, inputs, tokenizer.eos_token_id, options.seconds)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    json.dump({"part": options.part, "peer": f"torch {torch.__version__}, transformers {transformers.__version__}, "
               f"peft {peft.__version__}, {options.attention}", "threads": options.threads, **measured,
               "imported_mib": imported, "loaded_mib": loaded, "peak_mib": peak,
               "tokens": inputs["input_ids"].shape[1]}, sys.stdout)
    print()
