#!/usr/bin/env python3
"""What transformers and peft do on the same card with the same shapes: Gemma 2B's, randomly initialised, nothing downloaded.

  gpu_baseline.py [--json FILE] [--against FILE] [--steps N] [--small] [--device DEVICE]

LoRA of rank 8 on q and v in bf16 (and over bitsandbytes' NF4 where that can be imported), batch 1 x accumulation 2 over the
lengths in lengths.h, 16 x 512 tokens a step, scaled_dot_product_attention, greedy decoding. --against: the rows of bench_gpu
--json; then a table says how many times faster. A plain loop around the model: what Trainer adds is not counted.
Exit 4 where torch, transformers or a GPU are missing.
"""
import argparse
import gc
import json
import pathlib
import re
import statistics
import sys
import time


def missing(what):
    print(f"gpu_baseline: {what}: nothing to compare with", file=sys.stderr)
    sys.exit(4)


try:
    import torch
    import torch.nn.functional as F
except ImportError as e:
    missing(f"torch cannot be imported ({e})")
try:
    import transformers
    from transformers import AutoModelForCausalLM, GemmaConfig
except ImportError as e:
    missing(f"transformers cannot be imported ({e})")
try:
    import peft
except ImportError:
    peft = None
try:
    import bitsandbytes
except Exception:  # it also fails where it does not find a CUDA library that it was built for
    bitsandbytes = None

parser = argparse.ArgumentParser(usage=__doc__)
parser.add_argument("--json")
parser.add_argument("--against")
parser.add_argument("--steps", type=int, default=100)
parser.add_argument("--small", action="store_true")
parser.add_argument("--device", default="cuda")
args = parser.parse_args()
cuda = args.device == "cuda"
if cuda and not torch.cuda.is_available():
    missing("torch finds no GPU")
device_name = torch.cuda.get_device_name() if cuda else args.device
rows = []


def row(workload, name, unit, achieved, note=""):
    r = {"workload": workload, "name": name, "unit": unit, "device": device_name, "achieved": achieved}
    if note:
        r["note"] = note
    rows.append(r)
    print(f"| {name}{f' ({note})' if note else ''} | {achieved:.4g} {unit} |", flush=True)


def sync():
    if cuda:
        torch.cuda.synchronize()


def most_memory():
    return torch.cuda.max_memory_allocated() / 1e9 if cuda else 0


def free_memory():
    gc.collect()
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def lengths():
    text = pathlib.Path(__file__).with_name("lengths.h").read_text()
    numbers = [int(n) for n in re.findall(r"\d+", text.split("= {")[1])]
    assert len(numbers) == 1000
    return [min(n, 24) for n in numbers] if args.small else numbers


def config():
    small = args.small
    return GemmaConfig(
        vocab_size=512 if small else 256000, hidden_size=64 if small else 2048, intermediate_size=128 if small else 16384,
        num_hidden_layers=2 if small else 18, num_attention_heads=4 if small else 8, num_key_value_heads=1,
        head_dim=16 if small else 256, max_position_embeddings=8192, hidden_act="gelu_pytorch_tanh",
        pad_token_id=0, eos_token_id=1, bos_token_id=2)


def new_model():
    free_memory()
    torch.manual_seed(0)
    try:
        with torch.device(args.device):
            model = AutoModelForCausalLM.from_config(config(), dtype=torch.bfloat16, attn_implementation="sdpa")
    except TypeError:  # before transformers 4.56
        with torch.device(args.device):
            model = AutoModelForCausalLM.from_config(config(), torch_dtype=torch.bfloat16, attn_implementation="sdpa")
    model = model.to(args.device)
    model.config.use_cache = False
    return model


def to_nf4(model):
    """As load_in_4bit: every linear layer but the vocabulary's."""
    for name, module in list(model.named_modules()):
        for child_name, child in list(module.named_children()):
            if isinstance(child, torch.nn.Linear) and child_name != "lm_head":
                new = bitsandbytes.nn.Linear4bit(child.in_features, child.out_features, bias=False,
                                                 compute_dtype=torch.bfloat16, quant_type="nf4")
                new.weight = bitsandbytes.nn.Params4bit(child.weight.data.cpu(), requires_grad=False, quant_type="nf4")
                setattr(module, child_name, new.to(args.device))
    return model


def with_lora(model):
    lora = peft.LoraConfig(r=8, lora_alpha=16, lora_dropout=0.1, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    model = peft.get_peft_model(model, lora)
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    return model, trained, torch.optim.AdamW(trained, lr=2e-4, weight_decay=0.001, fused=cuda)


def one_step(model, trained, optimizer, batches):
    for ids in batches:
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss / len(batches)
        loss.backward()
    torch.nn.utils.clip_grad_norm_(trained, 0.3)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def random_ids(*shape):
    return torch.randint(3, config().vocab_size, shape, device=args.device)


def epoch(kind, quantise):
    model = new_model()
    if quantise:
        model = to_nf4(model)
    model, trained, optimizer = with_lora(model)
    steps = 4 if args.small else args.steps
    all_lengths = lengths()
    batches = [[random_ids(1, n) for n in all_lengths[2 * s:2 * s + 2]] for s in range(steps)]
    for b in batches[:5]:  # warm up
        one_step(model, trained, optimizer, b)
    sync()
    free_memory()
    start = time.perf_counter()
    for b in batches:
        one_step(model, trained, optimizer, b)
    sync()
    seconds = (time.perf_counter() - start) / steps
    tokens = sum(x.numel() for b in batches for x in b) / steps
    row("epoch", f"codelab's epoch, a step, {kind}", "ms", 1e3 * seconds, f"mean of {steps} steps, {tokens:.0f} tokens a step")
    row("epoch-rate", f"codelab's epoch, {kind}", "tokens/s", tokens / seconds)
    row("epoch-memory", f"codelab's epoch, most memory, {kind}", "GB", most_memory())
    return model, trained, optimizer


def long_batches(kind, model, trained, optimizer):
    length = 24 if args.small else 512
    note = ""
    for rows_at_once in (16, 8, 4, 2, 1):
        batches = [random_ids(rows_at_once, length) for _ in range(16 // rows_at_once)]
        times = []
        try:
            free_memory()
            for i in range(2 if args.small else 6):
                start = time.perf_counter()
                one_step(model, trained, optimizer, batches)
                sync()
                times.append(time.perf_counter() - start)
        except torch.cuda.OutOfMemoryError:
            optimizer.zero_grad(set_to_none=True)
            note = f"16 rows at once do not fit, {rows_at_once // 2} do"
            continue
        seconds = statistics.median(times[1:])
        row("long", f"16 x {length} tokens a step, {kind}", "tokens/s", 16 * length / seconds,
            ", ".join(filter(None, [note, f"most memory {most_memory():.3g} GB"])))
        return


def decode(kind, model, batch):
    prompt, new = (8, 6) if args.small else (64, 64)
    model.eval()
    ids = random_ids(batch, prompt)
    with torch.inference_mode():
        def run(n):
            sync()
            start = time.perf_counter()
            model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=n, min_new_tokens=n,
                           do_sample=False, use_cache=True)
            sync()
            return time.perf_counter() - start
        run(4)
        seconds = statistics.median(run(new) for _ in range(3)) / new  # the prompt's pass included: one of so many
    row(f"decode-{batch}", f"decoding, batch {batch}, {kind}", "tokens/s", batch / seconds, f"{1e3 * seconds:.3g} ms a token")


def time_of(f):
    for _ in range(3):
        f()
    times = []
    for _ in range(3 if args.small else 7):
        sync()
        start = time.perf_counter()
        for _ in range(2 if args.small else 20):
            f()
        sync()
        times.append((time.perf_counter() - start) / (2 if args.small else 20))
    return statistics.median(times)


def attention(workload, what, sequences, tokens):
    c = config()
    shape = lambda heads: (sequences, heads, tokens, c.head_dim)
    make = lambda heads: torch.randn(shape(heads), device=args.device, dtype=torch.bfloat16, requires_grad=True)
    q, k, v = make(c.num_attention_heads), make(1), make(1)
    wide = lambda x: x.expand(-1, c.num_attention_heads, -1, -1)
    forward = lambda: F.scaled_dot_product_attention(q, wide(k), wide(v), is_causal=True)
    with torch.no_grad():
        seconds = time_of(forward)
    out = forward()
    dout = torch.randn_like(out)
    back = time_of(lambda: torch.autograd.grad(out, (q, k, v), dout, retain_graph=True))
    row(f"attention-{workload}-forward", f"{what}, forward, scaled_dot_product_attention", "us", 1e6 * seconds)
    row(f"attention-{workload}-back", f"{what}, back, scaled_dot_product_attention", "us", 1e6 * back)


def attempt(what, f, *a):
    """One part that fails must not hide the others."""
    try:
        return f(*a)
    except Exception as e:
        print(f"| {what}: failed: {type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''} | |", flush=True)
        return None


def compare(path):
    ours = [json.loads(line) for line in open(path) if line.strip()]
    wanted = {"epoch": 10, "long": 2}
    less = ("ms", "us", "GB")
    print("\nBeside transformers and peft, in the same run\n\n| what | here | there | times better | target | met |\n|---|---|---|---|---|---|")
    for theirs in rows:
        for r in ours:
            if r["workload"] != theirs["workload"] or r.get("predicted") or not theirs["achieved"]:
                continue
            times = theirs["achieved"] / r["achieved"] if r["unit"] in less else r["achieved"] / theirs["achieved"]
            target = wanted.get(r["workload"])
            print(f"| {r['name']}; there: {theirs['name']} | {r['achieved']:.4g} {r['unit']} | {theirs['achieved']:.4g} "
                  f"{theirs['unit']} | {times:.1f} | {f'{target} times' if target else ''} | "
                  f"{('yes' if times >= target else 'no') if target else ''} |")


versions = f"transformers {transformers.__version__}, torch {torch.__version__}"
versions += f", peft {peft.__version__}" if peft else ", no peft"
versions += f", bitsandbytes {bitsandbytes.__version__}" if bitsandbytes else ", no bitsandbytes"
print(f"\n{versions}, on {device_name}\n\n| what | achieved |\n|---|---|")
attempt("attention", attention, "4096", "48 tokens" if args.small else "4096 tokens", 1, 48 if args.small else 4096)
attempt("attention", attention, "packed", "4 rows of 9" if args.small else "55 rows of 75 tokens",
        4 if args.small else 55, 9 if args.small else 75)
base = attempt("a model", new_model)
if base is not None:
    attempt("decoding", decode, "bf16", base, 1)
    attempt("decoding", decode, "bf16", base, 3 if args.small else 32)
    del base
for kind, quantise in (("peft, bf16", False), ("peft, bitsandbytes NF4", True)):
    if not peft:
        print("| training: peft cannot be imported | |")
        break
    if quantise and not bitsandbytes:
        print("| training over NF4: bitsandbytes cannot be imported | |")
        continue
    made = attempt(f"the epoch, {kind}", epoch, kind, quantise)
    if made:
        attempt(f"16 x 512, {kind}", long_batches, kind, *made)
    made = None
    free_memory()
if args.json:
    with open(args.json, "w") as f:
        f.writelines(json.dumps(r) + "\n" for r in rows)
if args.against:
    compare(args.against)
