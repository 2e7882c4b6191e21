"""Qwen2.5-VL with Transformers and PEFT: the peer that `bench_models` is measured against, on the same folder.

Prints one JSON object a part: `lora` and `full` are samples/s of whole training steps on 8 samples (forward, backward,
clipping, AdamW), `rollout` is tokens/s of `generate` with 8 answers of 32 tokens to each of 8 prompts. Images and texts
are processed once, before the timing starts. `--attention eager` or `sdpa`; dropout 0, no gradient checkpointing.
"""
import argparse, json, os, resource, sys, time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import peft, torch, transformers
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer, Qwen2_5_VLForConditionalGeneration
from transformers import Qwen2_5_VLProcessor, Qwen2VLVideoProcessor

BATCH, GENERATIONS, NEW_TOKENS, WARM_UP, ANSWER = 8, 8, 32, 2, 4
QUESTION = "Please provide the object name in the image. Output the answer using one word."
TARGETS = (r"^(model\.language_model\.layers\.\d+\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)"
           r"|model\.visual\.blocks\.\d+\.(attn\.(qkv|proj)|mlp\.(gate|up|down)_proj)"
           r"|model\.visual\.merger\.mlp\.(0|2))$")


def processor(folder):
    """The folder's processor, built by its parts: a folder need not have settings for videos."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    template = folder / "chat_template.json"
    text = json.loads(template.read_text())["chat_template"] if template.exists() else tokenizer.chat_template
    images = AutoImageProcessor.from_pretrained(folder, backend="pil")
    return Qwen2_5_VLProcessor(images, tokenizer, Qwen2VLVideoProcessor(), chat_template=text)


def prompts(folder, device):
    process = processor(folder)
    images = [Image.open(folder / "images" / f"{index}.png") for index in range(BATCH)]
    message = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}]
    text = process.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
    return process(text=[text] * BATCH, images=images, return_tensors="pt").to(device), process.tokenizer


def timed(step, amount, seconds):
    for _ in range(WARM_UP):
        step()
    begin, used, steps = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - begin < seconds:
        step()
        steps += 1
    took = time.perf_counter() - begin
    # Processor time over time: below the number of threads where others used the processors too.
    return {"per_second": steps * amount / took, "timed": steps, "processors": (time.process_time() - used) / took}


def training(model, inputs, end, seconds):
    """All prompts have one length, and all answers: nothing is padded."""
    answers = [[*range(40 + index, 40 + index + ANSWER), end] for index in range(BATCH)]
    answers = torch.tensor(answers, device=inputs["input_ids"].device)
    longer = {name: torch.cat([inputs[name], filled], 1) for name, filled in {
        "input_ids": answers,
        "attention_mask": torch.ones_like(answers),
        "mm_token_type_ids": torch.zeros_like(answers),
    }.items() if name in inputs}
    labels = torch.cat([torch.full_like(inputs["input_ids"], -100), answers], 1)
    batch = {**inputs, **longer, "labels": labels}
    model.train()
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trainable, lr=1e-5, betas=(0.9, 0.95), weight_decay=0.1)

    def step():
        loss = model(**batch, use_cache=False).loss
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        optimiser.step()
        loss.item()

    return timed(step, BATCH, seconds)


@torch.no_grad()
def rollouts(model, inputs, seconds):
    model.eval()
    length = inputs["input_ids"].shape[1]

    def step():
        written = model.generate(
            **inputs, do_sample=True, temperature=0.9, top_k=0, top_p=1.0, repetition_penalty=1.0,
            num_return_sequences=GENERATIONS, min_new_tokens=NEW_TOKENS, max_new_tokens=NEW_TOKENS,
        )
        assert written.shape == (BATCH * GENERATIONS, length + NEW_TOKENS)
        written.cpu()

    return timed(step, BATCH * GENERATIONS * NEW_TOKENS, seconds)


def resident_mib():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("part", choices=["lora", "full", "rollout"])
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--attention", choices=["eager", "sdpa"], default="sdpa")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--random", action="store_true", help="random weights, made on the device")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    imported = resident_mib()
    dtype = getattr(torch, options.dtype)
    inputs, tokenizer = prompts(options.folder, options.device)
    if options.random:
        config = AutoConfig.from_pretrained(options.folder, attn_implementation=options.attention)
        torch.set_default_dtype(dtype)
        with torch.device(options.device):
            model = Qwen2_5_VLForConditionalGeneration._from_config(config, attn_implementation=options.attention)
        torch.set_default_dtype(torch.float32)
    else:
        model = Qwen2_5_VLForConditionalGeneration.from_pretrained(
            options.folder, dtype=dtype, attn_implementation=options.attention).to(options.device)
    loaded = resident_mib()
    if options.part == "rollout":
        measured = rollouts(model, inputs, options.seconds)
    else:
        if options.part == "lora":
            lora = peft.LoraConfig(r=32, lora_alpha=64, lora_dropout=0.0, target_modules=TARGETS)
            model = peft.get_peft_model(model, lora)
        measured = training(model, inputs, tokenizer.eos_token_id, options.seconds)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    row = {"part": options.part, "peer": f"torch {torch.__version__}, transformers {transformers.__version__}, "
           f"peft {peft.__version__}, {options.attention}", "device": options.device, "threads": options.threads,
           **measured, "imported_mib": imported, "loaded_mib": loaded, "peak_mib": peak,
           "tokens": inputs["input_ids"].shape[1]}
    if options.device != "cpu":
        row["device_peak_mib"] = torch.cuda.max_memory_allocated() / 2**20
    json.dump(row, sys.stdout)
    print()
