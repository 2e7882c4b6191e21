"""Qwen2.5-VL with Transformers and PEFT: the peer that `bench_models` is measured against, on the same folder.

Prints one JSON object a part: `lora` and `full` are samples/s of whole training steps on 8 samples (forward, backward,
clipping, AdamW), `rollout` is tokens/s of `generate` with 8 answers of 32 tokens to each of 8 prompts, `grpo` is answers/s
of whole steps as TRL's trainer makes them with `generate`: draw, log-probabilities of the reference (the adapters
switched off) and of the policy with image and prompt computed for every answer, backward, AdamW. Images and texts are
processed once, before the timing starts. `--attention eager` or `sdpa`; no gradient checkpointing.
"""
import argparse, json, os, resource, sys, time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import peft, torch, transformers
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer, Qwen2_5_VLForConditionalGeneration
from transformers import Qwen2_5_VLProcessor, Qwen2VLVideoProcessor

GENERATIONS, NEW_TOKENS, ANSWER = 8, 32, 4
# As for the program that is measured against it.
BATCH, WARM_UP = (int(os.environ.get(name, default)) for name, default in (("BENCH_BATCH", 8), ("BENCH_WARM_UP", 2)))
DROPOUT, PASS = float(os.environ.get("BENCH_DROPOUT", 0)), int(os.environ.get("BENCH_PASS", 0))
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
    batch = len(inputs["input_ids"])
    answers = [[*range(40 + index, 40 + index + ANSWER), end] for index in range(batch)]
    answers = torch.tensor(answers, device=inputs["input_ids"].device)
    longer = {name: torch.cat([inputs[name], filled], 1) for name, filled in {
        "input_ids": answers,
        "attention_mask": torch.ones_like(answers),
        "mm_token_type_ids": torch.zeros_like(answers),
    }.items() if name in inputs}
    labels = torch.cat([torch.full_like(inputs["input_ids"], -100), answers], 1)
    whole = {**inputs, **longer, "labels": labels}
    model.train()
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trainable, lr=1e-5, betas=(0.9, 0.95), weight_decay=0.1)

    def step():
        loss = model(**whole, use_cache=False).loss
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        optimiser.step()
        loss.item()

    return timed(step, batch, seconds)


@torch.no_grad()
def rollouts(model, inputs, seconds):
    model.eval()
    batch, length = inputs["input_ids"].shape

    def step():
        written = model.generate(
            **inputs, do_sample=True, temperature=0.9, top_k=0, top_p=1.0, repetition_penalty=1.0,
            num_return_sequences=GENERATIONS, min_new_tokens=NEW_TOKENS, max_new_tokens=NEW_TOKENS,
        )
        assert written.shape == (batch * GENERATIONS, length + NEW_TOKENS)
        written.cpu()

    return timed(step, batch * GENERATIONS * NEW_TOKENS, seconds)


def repeated(inputs, count):
    """The inputs with every prompt `count` times in a row, its image too."""
    rows = {name: value.repeat_interleave(count, 0) for name, value in inputs.items() if value.dim() == 2
            and name not in ("pixel_values", "image_grid_thw")}
    patches = inputs["image_grid_thw"].prod(-1).tolist()
    images = [part for part in inputs["pixel_values"].split(patches) for _ in range(count)]
    return {**rows, "pixel_values": torch.cat(images),
            "image_grid_thw": inputs["image_grid_thw"].repeat_interleave(count, 0)}


def grpo(model, inputs, seconds, beta=0.04, epsilon=0.2, temperature=0.9):
    """TRL's step: `num_generations` 8, one update from each draw, a reference without adapters, loss type `grpo`."""
    batch, length = inputs["input_ids"].shape
    answers_a_pass = PASS or batch * GENERATIONS
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trainable, lr=1e-5, betas=(0.9, 0.999), weight_decay=0.1)

    def logprobs(rows):
        logits = model(**rows, use_cache=False, logits_to_keep=NEW_TOKENS + 1).logits[:, :-1] / temperature
        tokens = rows["input_ids"][:, -NEW_TOKENS:]
        return torch.stack([torch.gather(row.float().log_softmax(-1), -1, ids[:, None])[:, 0]
                            for row, ids in zip(logits, tokens)])

    def step():
        model.eval()
        with torch.no_grad():
            written = model.generate(
                **inputs, do_sample=True, temperature=temperature, top_k=0, top_p=1.0, repetition_penalty=1.0,
                num_return_sequences=GENERATIONS, min_new_tokens=NEW_TOKENS, max_new_tokens=NEW_TOKENS,
            )
        rewards = (written[:, length:].sum(-1) % 3).float().view(batch, GENERATIONS)
        advantages = ((rewards - rewards.mean(1, True)) / (rewards.std(1, keepdim=True) + 1e-4)).flatten()
        model.train()
        optimiser.zero_grad(set_to_none=True)
        for start in range(0, batch * GENERATIONS, answers_a_pass):
            chosen = range(start, min(start + answers_a_pass, batch * GENERATIONS))
            prompts = [row // GENERATIONS for row in chosen]
            first, last = prompts[0], prompts[-1] + 1
            patches = inputs["image_grid_thw"].prod(-1).tolist()
            offset = sum(patches[:first])
            part = {name: value[first:last] for name, value in inputs.items() if name != "pixel_values"}
            part["pixel_values"] = inputs["pixel_values"][offset:offset + sum(patches[first:last])]
            rows = repeated(part, GENERATIONS)
            rows["input_ids"] = written[first * GENERATIONS:last * GENERATIONS]
            for name, fill in {"attention_mask": 1, "mm_token_type_ids": 0}.items():
                if name in rows:
                    more = torch.full((len(rows[name]), NEW_TOKENS), fill, device=rows[name].device,
                                      dtype=rows[name].dtype)
                    rows[name] = torch.cat([rows[name], more], 1)
            with torch.no_grad(), model.disable_adapter():
                reference = logprobs(rows)
            policy = logprobs(rows)
            ratio = (policy - policy.detach()).exp()
            advantage = advantages[first * GENERATIONS:last * GENERATIONS, None]
            gain = torch.minimum(ratio * advantage, ratio.clamp(1 - epsilon, 1 + epsilon) * advantage)
            kl = (reference - policy).exp() - (reference - policy) - 1
            ((beta * kl - gain).mean(1).sum() / (batch * GENERATIONS)).backward()
        torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        optimiser.step()
        torch.cuda.synchronize() if torch.cuda.is_available() else None

    return timed(step, batch * GENERATIONS, seconds)


def resident_mib():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("part", choices=["lora", "full", "rollout", "grpo"])
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
        if options.part in ("lora", "grpo"):
            lora = peft.LoraConfig(r=32, lora_alpha=64, lora_dropout=DROPOUT, target_modules=TARGETS)
            model = peft.get_peft_model(model, lora)
        measured = (grpo(model, inputs, options.seconds) if options.part == "grpo"
                    else training(model, inputs, tokenizer.eos_token_id, options.seconds))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    row = {"part": options.part, "peer": f"torch {torch.__version__}, transformers {transformers.__version__}, "
           f"peft {peft.__version__}, {options.attention}", "device": options.device, "threads": options.threads,
           **measured, "imported_mib": imported, "loaded_mib": loaded, "peak_mib": peak,
           "tokens": inputs["input_ids"].shape[1]}
    if options.device != "cpu":
        row["device_peak_mib"] = torch.cuda.max_memory_allocated() / 2**20
    json.dump(row, sys.stdout)
    print()
