#!/usr/bin/env python3
"""Training runs in float64 with PyTorch's autograd: the numbers that model/trainer.c has to match.

    python3 tests/reference/train_reference.py ../shared/data > tests/golden/train_stories260K.json

Rows are those of sql_create_context, one token per UTF-8 byte (the model's byte pieces: id = byte + 3), so that no tokenizer
takes part. The optimizer is bitsandbytes 0.45.5's form, the order transformers 4.51.3's LengthGroupedSampler drawing
from torch's own generator, the schedule transformers' formula. Needs torch (1.13 or later) and numpy.
"""
import json
import math
import struct
import sys

import numpy as np
import torch

ROWS, MAX_TOKENS = 11, 110


def load_model(folder):
    raw = open(folder + "/model.safetensors", "rb").read()
    n = struct.unpack("<Q", raw[:8])[0]
    weights = {}
    for name, t in json.loads(raw[8:8 + n]).items():
        if name != "__metadata__":
            a, b = t["data_offsets"]
            w = np.frombuffer(raw[8 + n + a:8 + n + b], dtype="<f4").reshape(t["shape"])
            weights[name] = torch.tensor(w.astype(np.float64))
    return weights, json.load(open(folder + "/config.json"))


def load_rows(path):
    rows = []
    for line in list(open(path, encoding="utf-8"))[:ROWS]:
        r = json.loads(line)
        prompt = f"Question: {r['question']} Answer: "
        ids = [1] + [b + 3 for b in prompt.encode()]
        start = len(ids)
        ids += [b + 3 for b in r["answer"].encode()] + [2]
        rows.append((ids[:MAX_TOKENS], start))
    return rows


def philox(counter, key):
    c, k = list(counter), [key & 0xffffffff, key >> 32]
    for _ in range(10):
        p0, p1 = 0xd2511f53 * c[0], 0xcd9e8d57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k[0], p1 & 0xffffffff, (p0 >> 32) ^ c[3] ^ k[1], p0 & 0xffffffff]
        k = [(k[0] + 0x9e3779b9) & 0xffffffff, (k[1] + 0xbb67ae85) & 0xffffffff]
    return c


def init_a(rank, cols, entry, seed):
    bound, values = np.float32(1 / math.sqrt(cols)), []
    for block in range((rank * cols + 3) // 4):
        for word in philox([block, 0, entry, 0x4c6f5241], seed):
            values.append((np.float32(word >> 8) * np.float32(2.0 ** -24) * np.float32(2) - np.float32(1)) * bound)
    return torch.tensor(np.array(values[:rank * cols], dtype=np.float64).reshape(rank, cols))


NAMES = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj",
         "mlp.up_proj", "mlp.down_proj"]


def forward(w, c, lora, scale, ids):
    """Logits of one sequence; lora[name] = (A, B)."""
    n, heads, kv, hd = len(ids), c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]

    def norm(x, name):
        return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + c["rms_norm_eps"]) * w[name]

    def linear(x, name):
        y = x @ w[name + ".weight"].T
        if name in lora:
            a, b = lora[name]
            y = y + scale * ((x @ a.T) @ b.T)
        return y

    freq = 1 / c["rope_theta"] ** (torch.arange(0, hd, 2, dtype=torch.float64) / hd)
    angle = torch.arange(n, dtype=torch.float64)[:, None] * freq[None, :]
    cos, sin = torch.cat([angle, angle], -1).cos()[:, None], torch.cat([angle, angle], -1).sin()[:, None]

    def rope(x):
        half = torch.cat([-x[..., hd // 2:], x[..., :hd // 2]], -1)
        return x * cos + half * sin

    x = w["model.embed_tokens.weight"][torch.tensor(ids)]
    mask = torch.full((n, n), float("-inf"), dtype=torch.float64).triu(1)
    for i in range(c["num_hidden_layers"]):
        p = f"model.layers.{i}."
        h = norm(x, p + "input_layernorm.weight")
        q = rope(linear(h, p + "self_attn.q_proj").view(n, heads, hd))
        k = rope(linear(h, p + "self_attn.k_proj").view(n, kv, hd)).repeat_interleave(heads // kv, 1)
        v = linear(h, p + "self_attn.v_proj").view(n, kv, hd).repeat_interleave(heads // kv, 1)
        s = torch.einsum("qhd,khd->hqk", q, k) / math.sqrt(hd) + mask
        o = torch.einsum("hqk,khd->qhd", s.softmax(-1), v).reshape(n, heads * hd)
        x = x + linear(o, p + "self_attn.o_proj")
        h = norm(x, p + "post_attention_layernorm.weight")
        g = linear(h, p + "mlp.gate_proj")
        x = x + linear(g * torch.sigmoid(g) * linear(h, p + "mlp.up_proj"), p + "mlp.down_proj")
    return norm(x, "model.norm.weight") @ w["model.embed_tokens.weight"].T


def grouped(lengths, size):
    mult = min(len(lengths) // (size * 4), 50) or 1
    indices = torch.randperm(len(lengths))
    mega = mult * size
    mb = [indices[i:i + mega].tolist() for i in range(0, len(lengths), mega)]
    mb = [sorted(m, key=lambda i: lengths[i], reverse=True) for m in mb]
    longest = torch.argmax(torch.tensor([lengths[m[0]] for m in mb])).item()
    mb[0][0], mb[longest][0] = mb[longest][0], mb[0][0]
    return [i for m in mb for i in m]


def factor(kind, u, warmup, total):
    if u < warmup:
        return u / max(1, warmup)
    if kind == "cosine":
        return max(0.0, 0.5 * (1 + math.cos(math.pi * (u - warmup) / max(1, total - warmup))))
    return max(0.0, (total - u) / max(1, total - warmup))


def train(folder, rows, name, codelab, full, targets, accum, epochs, lr, wd, clip, kind, warmup_ratio, seed, rank=8,
          alpha=16):
    weights, config = load_model(folder)
    lora, params = {}, []
    if full:
        names = ["model.embed_tokens.weight"]
        for i in range(config["num_hidden_layers"]):
            names += [f"model.layers.{i}.{p}.weight" for p in NAMES + ["input_layernorm", "post_attention_layernorm"]]
        params = [(weights[n], n.find("norm") < 0) for n in names + ["model.norm.weight"]]
    else:
        for i in range(config["num_hidden_layers"]):
            for k, p in enumerate(NAMES):
                if p.split(".")[1] in targets:
                    w = weights[f"model.layers.{i}.{p}.weight"]
                    a = init_a(rank, w.shape[1], i * 7 + k, seed)
                    b = torch.zeros(w.shape[0], rank, dtype=torch.float64)
                    lora[f"model.layers.{i}.{p}"] = (a, b)
                    params += [(a, True), (b, True)]
    for p, _ in params:
        p.requires_grad_(True)
    m, v = [torch.zeros_like(p) for p, _ in params], [torch.zeros_like(p) for p, _ in params]
    per_epoch = max(1, len(rows) // accum) if codelab else (len(rows) + accum - 1) // accum
    total = math.ceil(epochs * per_epoch)
    warmup = math.ceil(total * warmup_ratio)
    torch.manual_seed(seed)
    out = {"name": name, "loss": [], "grad_norm": [], "learning_rate": []}
    order, step = [], 0
    while step < total:
        if not order:
            torch.empty((), dtype=torch.int64).random_()
            order = grouped([len(r[0]) for r in rows], accum)
        pick, order = order[:accum], order[accum:]
        first = [0 if codelab else rows[i][1] for i in pick]
        denominator = sum(max(len(rows[i][0]) - (f if codelab else max(f, 1)), 0) for i, f in zip(pick, first))
        loss = torch.zeros((), dtype=torch.float64)
        for i, f in zip(pick, first):
            ids = rows[i][0]
            logp = forward(weights, config, lora, alpha / rank, ids).log_softmax(-1)
            for t in range(max(f, 1) - 1, len(ids) - 1):
                loss = loss - logp[t, ids[t + 1]] / denominator
        for p, _ in params:
            p.grad = None
        loss.backward()
        grads = [p.grad for p, _ in params]
        total_norm = math.sqrt(sum(float((g * g).sum()) for g in grads))
        coef = min(1.0, clip / (total_norm + 1e-6)) if clip else 1.0
        rate = lr * factor(kind, step, warmup, total)
        step += 1
        c1, c2 = 1 - 0.9 ** step, math.sqrt(1 - 0.999 ** step)
        with torch.no_grad():
            for k, (p, decay) in enumerate(params):
                g = grads[k] * coef
                m[k] = 0.9 * m[k] + 0.1 * g
                v[k] = 0.999 * v[k] + 0.001 * g * g
                p -= rate * c2 / c1 * m[k] / (v[k].sqrt() + 1e-8 * c2)
                if decay:
                    p *= 1 - rate * wd
        out["loss"].append(round(float(loss.detach()), 8))
        out["grad_norm"].append(round(total_norm, 8))
        out["learning_rate"].append(rate)
    return out


def main():
    data = sys.argv[1]
    folder = data + "/stories260K"
    rows = load_rows(data + "/sql_create_context/rows.jsonl")
    everything = [n.split(".")[1] for n in NAMES]
    runs = [
        train(folder, rows, "codelab", True, False, ["q_proj", "v_proj"], 2, 2, 1e-2, 0.001, 0.3, "cosine", 0.03, 42),
        train(folder, rows, "default", False, False, everything, 4, 2, 5e-3, 0.01, 0, "linear", 0.1, 7),
        train(folder, rows, "full", False, True, [], 3, 1, 1e-3, 0.01, 1, "cosine", 0.1, 1),
    ]
    lines = [json.dumps(r) for r in runs]
    print('{"rows": %d, "max_tokens": %d, "runs": [\n%s\n]}' % (ROWS, MAX_TOKENS, ",\n".join(lines)))


main()
