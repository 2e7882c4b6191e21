"""Do Transformers and PEFT read what we write, and compute the same with it?

    cargo build --release --workspace --example round_trip
    python stages/models/tests/python/round_trip.py GOLDEN [PROGRAM]

GOLDEN is a folder of golden data (a checkpoint, adapters, conversations), PROGRAM our side (default:
target/release/examples/round_trip). Needs torch, torchvision, transformers 5, peft, safetensors, pillow before version 13
(which resizes in another order), for SmolVLM2 num2words. Prints a table and ends with status 1 if anything differs by more
than its tolerance.
"""
import json, os, subprocess, sys, tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch, transformers
from peft import PeftModel
from PIL import Image, ImageOps
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

# Of logits in 32 bits whose products are summed in another order; of merged weights, whose product is.
LOGITS = {"qwen2_5_vl": 1e-4, "qwen3_vl": 1e-4, "smolvlm": 2e-4}
WEIGHTS = 1e-6
rows, failed = [], False


def note(what, reference, difference, tolerance):
    """A row of the table. A difference is a number, or a list of what is wrong."""
    global failed
    number = 0.0 if difference == [] else difference
    right = isinstance(number, float) and number <= tolerance
    failed |= not right
    shown = f"{number:.2e}" if isinstance(number, float) else "; ".join(map(str, number[:3]))
    rows.append((what, reference, shown, f"{tolerance:.0e}" if tolerance else "equal", "ok" if right else "WRONG"))


def model_of(folder, **options):
    options = {"dtype": torch.float32, "attn_implementation": "eager", **options}
    return AutoModelForImageTextToText.from_pretrained(folder, **options).eval()


def family_of(folder):
    return json.loads((folder / "config.json").read_text())["model_type"]


def processor_of(folder):
    """By its parts: the folder need not have settings for videos, and images are resized by Pillow."""
    jinja = folder / "chat_template.jinja"
    template = (jinja.read_text() if jinja.exists()
                else json.loads((folder / "chat_template.json").read_text())["chat_template"])
    images = AutoImageProcessor.from_pretrained(folder, backend="pil")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    match family_of(folder):
        case "qwen2_5_vl":
            kind, videos, more = transformers.Qwen2_5_VLProcessor, transformers.Qwen2VLVideoProcessor(), {}
        case "qwen3_vl":
            kind, videos, more = transformers.Qwen3VLProcessor, transformers.Qwen3VLVideoProcessor(), {}
        case "smolvlm":
            more = {"image_seq_len": json.loads((folder / "processor_config.json").read_text())["image_seq_len"]}
            kind, videos = transformers.SmolVLMProcessor, transformers.SmolVLMVideoProcessor()
    return kind(images, tokenizer, videos, chat_template=template, **more)


def conversations(golden):
    cases = json.loads((golden / "forward/cases.json").read_text())
    for name, case in cases.get("cases", cases).items():
        # Options of the processor are those of another folder.
        if case.get("processor_kwargs"):
            continue
        for index, messages in enumerate(case["messages"]):
            yield f"{name}.{index}", messages


def inputs_of(golden, processor, messages):
    parts = [part for message in messages if isinstance(message["content"], list) for part in message["content"]]
    # Transformers turns images upright where it opens them itself, and composites transparency only where it does not.
    images = [ImageOps.exif_transpose(Image.open(golden / part["image"])) for part in parts if part["type"] == "image"]
    text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return processor(text=[text], images=images or None, return_tensors="pt")


@torch.no_grad()
def compare_logits(what, golden, folder, ours, model):
    """Token ids and logits of all conversations; processor and template are those of `folder`."""
    processor = processor_of(folder)
    ids, largest, compared = [], 0.0, 0
    for name, messages in conversations(golden):
        inputs = inputs_of(golden, processor, messages)
        if inputs["input_ids"][0].tolist() != ours[f"{name}.ids"].tolist():
            ids.append(f"{name}: other token ids")
            continue
        logits = model(**inputs).logits[0].float()
        largest = max(largest, (logits - ours[f"{name}.logits"]).abs().max().item())
        compared += logits.numel()
    note(f"{what}: token ids of all conversations", "transformers", ids, 0)
    note(f"{what}: {compared} logits", "transformers", largest if compared else ["none compared"],
         LOGITS[family_of(golden / "ckpt")])


def tensors_of(folder):
    """All tensors of a checkpoint's files, and what is wrong with its index."""
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return load_file(folder / "model.safetensors"), []
    index, tensors, wrong = json.loads(index.read_text()), {}, []
    for file in sorted(set(index["weight_map"].values())):
        for name, tensor in load_file(folder / file).items():
            if index["weight_map"].get(name) != file:
                wrong.append(f"{name} is in {file}")
            tensors[name] = tensor
    wrong += [f"{name} is nowhere" for name in index["weight_map"] if name not in tensors]
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    if index["metadata"]["total_size"] != size:
        wrong.append(f"total_size {index['metadata']['total_size']} is {size}")
    return tensors, wrong


def differing(tensors, expected):
    """Names of what is missing, extra, of another type or shape, or not bit for bit the same."""
    wrong = sorted(set(tensors) ^ set(expected))
    for name in set(tensors) & set(expected):
        ours, theirs = tensors[name], expected[name]
        if (ours.dtype, ours.shape) != (theirs.dtype, theirs.shape) or not torch.equal(ours, theirs):
            wrong.append(name)
    return wrong


def check_adapter(golden, out, name, logits):
    folder = out / f"{name}.adapter"
    given = golden / "sft" / name / "adapter_after_5_steps"
    wrong = differing(load_file(folder / "adapter_model.safetensors"), load_file(given / "adapter_model.safetensors"))
    note(f"{name}: adapter_model.safetensors", "PEFT's file", wrong, 0)
    model = PeftModel.from_pretrained(model_of(golden / "ckpt"), folder).eval()
    compare_logits(f"{name} as PEFT adapter", golden, folder, logits(folder), model)
    theirs = PeftModel.from_pretrained(model_of(golden / "ckpt"), given).merge_and_unload().state_dict()
    merged = out / f"{name}.merged"
    model = model_of(merged)
    ours = model.state_dict()
    largest = max((ours[key] - theirs[key]).abs().max().item() for key in theirs)
    note(f"{name} merged: weights", "PEFT's merge_and_unload", largest, WEIGHTS)
    compare_logits(f"{name} merged", golden, merged, logits(merged), model)
    # A folder with a checkpoint and an adapter is for Transformers a checkpoint that wears the adapter.
    try:
        compare_logits(f"{name}, folder opened as a model", golden, folder, logits(folder), model_of(folder))
    except Exception as error:
        note(f"{name}, folder opened as a model", "transformers", [f"{type(error).__name__}: {error}"], 0)


def check_whole(golden, out, name, logits):
    expected, _ = tensors_of(golden / name)
    given = json.loads((golden / name / "config.json").read_text())
    for kind in ["imported", "whole", "shards"]:
        folder = out / f"{name}.{kind}"
        tensors, wrong = tensors_of(folder)
        note(f"{name} {kind}: {len(expected)} tensors, bit for bit", "the original", wrong + differing(tensors, expected), 0)
        config = json.loads((folder / "config.json").read_text())
        note(f"{name} {kind}: config.json", "the original",
             [key for key in sorted(set(given) | set(config)) if given.get(key) != config.get(key)], 0)
        files = list(folder.glob("*.safetensors"))
        for file in files:
            with safe_open(file, "pt") as opened:
                if (opened.metadata() or {}).get("format") != "pt":
                    note(f"{name} {kind}: {file.name}", "transformers", ["no format in the header"], 0)
        if kind == "shards":
            note(f"{name} {kind}: several files", "", [] if len(files) > 1 else ["one file"], 0)
        stored = model_of(folder, dtype="auto").dtype
        first = next(iter(expected.values())).dtype
        note(f"{name} {kind}: number type by itself", "the original", [] if stored == first else [stored], 0)
        compare_logits(f"{name} {kind}", golden, folder, logits(folder), model_of(folder))


def another_shape(config):
    """Sizes that the golden checkpoint does not have."""
    text, vision = config.text_config, config.vision_config
    text.num_hidden_layers, text.hidden_size, text.intermediate_size = 2, 96, 112
    text.num_attention_heads, text.num_key_value_heads = 6, 3
    if config.model_type == "smolvlm":
        text.head_dim, vision.num_hidden_layers, vision.hidden_size = 16, 2, 48
        vision.intermediate_size, vision.num_attention_heads = 90, 3
        return
    if config.model_type == "qwen3_vl":
        text.head_dim, text.rope_parameters["mrope_section"] = 24, [4, 4, 4]
        vision.num_position_embeddings, vision.deepstack_visual_indexes = 25, [1]
    else:
        text.layer_types = ["full_attention"] * 2
        text.rope_parameters["mrope_section"] = [3, 3, 2]
        vision.fullatt_block_indexes, vision.window_size = [1], 56
    vision.depth, vision.hidden_size, vision.intermediate_size, vision.num_heads = 3, 80, 90, 4
    vision.out_hidden_size = 96


def check_shape(golden, out, program, tied):
    """A checkpoint of Transformers in another shape than the golden one, with and without a tied head."""
    config = transformers.AutoConfig.from_pretrained(golden / "ckpt")
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = tied
    another_shape(config)
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config, attn_implementation="eager").eval()
    folder = out / f"other.{'tied' if tied else 'untied'}"
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(folder, max_shard_size="300KB")
    for file in (golden / "ckpt").iterdir():
        if file.suffix != ".safetensors" and file.name not in ["config.json", "generation_config.json"]:
            (folder / file.name).write_bytes(file.read_bytes())
    ours = run_logits(program, golden, folder)
    compare_logits(f"another shape, head {'tied' if tied else 'of its own'}", golden, folder, ours, model)


def run_logits(program, golden, folder):
    file = folder.with_name(folder.name + ".logits")
    subprocess.run([program, "logits", golden, folder, file], check=True)
    return load_file(file)


def main(golden, program="target/release/examples/round_trip"):
    golden = Path(golden)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as out:
        out = Path(out)
        subprocess.run([program, "export", golden, out], check=True)

        def logits(folder):
            return run_logits(program, golden, folder)

        for name in ["lora_lm", "lora_all"]:
            check_adapter(golden, out, name, logits)
        for name in ["ckpt", "ckpt_hub_bf16"]:
            check_whole(golden, out, name, logits)
        for tied in [True, False]:
            check_shape(golden, out, program, tied)
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
