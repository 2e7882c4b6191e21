"""The micro VLM in PyTorch, eager mode: the peer that the Rust benchmarks are measured against.

Prints one JSON object: samples per second of a pre-training step (all weights, batch 64), of a LoRA SFT step
(rank 8 on the 18 linear layers, dropout 0.05, batch 16), answers per second of sampled generation with a KV cache
in the usual way (each prompt repeated n times, one forward per token), and the peak resident memory of each part.
"""
import argparse, json, math, resource, sys, time

import torch
import torch.nn as nn
import torch.nn.functional as F

WIDTH, HEADS, PATCHES, PATCH_VALUES, VOCAB, CONTEXT = 48, 4, 16, 48, 32, 40


class Linear(nn.Module):
    """A linear layer with an optional LoRA adapter in the activation path."""

    def __init__(self, inputs, outputs, gain=1.0):
        super().__init__()
        self.base = nn.Linear(inputs, outputs)
        nn.init.normal_(self.base.weight, std=gain / math.sqrt(inputs))
        nn.init.zeros_(self.base.bias)
        self.a = self.b = None

    def adapt(self, rank):
        self.base.requires_grad_(False)
        bound = 1 / math.sqrt(self.base.in_features)
        self.a = nn.Parameter(torch.empty(rank, self.base.in_features).uniform_(-bound, bound))
        self.b = nn.Parameter(torch.zeros(self.base.out_features, rank))

    def forward(self, x):
        y = self.base(x)
        if self.a is not None:
            y = y + 2.0 * F.linear(F.linear(F.dropout(x, 0.05, self.training), self.a), self.b)
        return y


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = Linear(WIDTH, 3 * WIDTH), Linear(WIDTH, WIDTH, 0.3)
        self.up, self.down = Linear(WIDTH, 2 * WIDTH), Linear(2 * WIDTH, WIDTH, 0.3)

    def forward(self, x, causal, cache=None):
        batch, length, _ = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(batch, length, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        if cache is not None:
            if cache:
                k, v = torch.cat([cache[0], k], 2), torch.cat([cache[1], v], 2)
            cache[:] = [k, v]
        y = F.scaled_dot_product_attention(q, k, v, is_causal=causal and length > 1)
        x = x + self.out(y.transpose(1, 2).reshape(batch, length, WIDTH))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Vlm(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch = Linear(PATCH_VALUES, WIDTH)
        self.image_positions = nn.Parameter(torch.randn(PATCHES, WIDTH) * 0.1)
        self.encoder = nn.ModuleList([Block(), Block()])
        self.encoder_norm = nn.LayerNorm(WIDTH)
        self.projector = Linear(WIDTH, WIDTH)
        self.embed = nn.Embedding(VOCAB, WIDTH)
        nn.init.normal_(self.embed.weight, std=0.3)
        self.positions = nn.Parameter(torch.randn(CONTEXT, WIDTH) * 0.1)
        self.decoder = nn.ModuleList([Block(), Block()])
        self.decoder_norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, VOCAB)

    def see(self, images):
        batch = images.shape[0]
        x = images.view(batch, 3, 4, 4, 4, 4).permute(0, 2, 4, 3, 5, 1).reshape(batch, PATCHES, PATCH_VALUES)
        x = self.patch(x) + self.image_positions
        for block in self.encoder:
            x = block(x, causal=False)
        return self.projector(self.encoder_norm(x))

    def forward(self, images, tokens):
        seen = self.see(images)
        x = torch.cat([seen, self.embed(tokens)], 1)
        x = x + self.positions[: x.shape[1]]
        for block in self.decoder:
            x = block(x, causal=True)
        return self.head(self.decoder_norm(x[:, PATCHES:])), seen.mean(1)

    @torch.no_grad()
    def generate(self, images, prompt, steps, temperature):
        """One forward per token; the prompts come repeated, as `num_return_sequences` repeats them."""
        caches = [[] for _ in self.decoder]
        x = torch.cat([self.see(images), self.embed(prompt)], 1)
        position, answers = 0, []
        finished = torch.zeros(len(images), dtype=torch.bool)
        for _ in range(steps):
            x = x + self.positions[position : position + x.shape[1]]
            position += x.shape[1]
            for block, cache in zip(self.decoder, caches):
                x = block(x, causal=True, cache=cache)
            logits = self.head(self.decoder_norm(x[:, -1])) / temperature
            token = torch.multinomial(F.softmax(logits, -1), 1)
            answers.append(token.masked_fill(finished[:, None], 0))
            finished |= token[:, 0] == 1
            if finished.all():
                break
            x = self.embed(token)
        return torch.cat(answers, 1)


def peak_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def train(model, batch, seconds):
    """Samples per second; answers are 3 to 6 tokens with the end token, right-padded to the longest."""
    params = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(params, lr=1e-4, betas=(0.9, 0.98), weight_decay=0.01)
    model.train()
    images = torch.rand(batch, 3, 16, 16) * 2 - 1
    lengths = torch.tensor(ANSWERS).repeat(batch)[:batch]
    longest = int(lengths.max())
    tokens = torch.randint(6, VOCAB, (batch, 1 + longest))
    mask = torch.arange(longest)[None, :] < lengths[:, None]

    def step():
        logits, _ = model(images, tokens[:, :-1])
        loss = F.cross_entropy(logits[mask], tokens[:, 1:][mask])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimiser.step()
        return loss.item()

    for _ in range(10):
        step()
    begin, steps = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        step()
        steps += 1
    return steps * batch / (time.perf_counter() - begin)


ANSWERS = [5, 4, 4, 5, 3, 5, 4, 5, 5, 4, 4, 4, 5, 5, 5, 5]  # letters of the 16 names + end, as drawn uniformly

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("part", choices=["pretrain", "lora", "rollout"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=10)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model = Vlm()
    if options.part == "pretrain":
        rate = train(model, 64, options.seconds)
    elif options.part == "lora":
        for module in model.modules():
            if isinstance(module, Linear):
                module.adapt(8)
        for name, value in model.named_parameters():
            value.requires_grad_(name.endswith((".a", ".b")))
        rate = train(model, 16, options.seconds)
    else:
        model.eval()
        prompts, n = 75, 8
        images = (torch.rand(prompts, 3, 16, 16) * 2 - 1).repeat_interleave(n, 0)
        prompt = torch.full((prompts * n, 1), 4)
        # An untrained model seldom ends its answers; five tokens each is what a trained one writes.
        model.head.bias.data[1] = -1e9
        model.generate(images, prompt, 5, 0.9)
        begin, answers = time.perf_counter(), 0
        while time.perf_counter() - begin < options.seconds:
            answers += len(model.generate(images, prompt, 5, 0.9))
        rate = answers / (time.perf_counter() - begin)
    json.dump({"part": options.part, "peer": f"torch {torch.__version__}", "threads": options.threads,
               "per_second": rate, "peak_mib": peak_mib()}, sys.stdout)
    print()
