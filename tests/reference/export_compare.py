#!/usr/bin/env python3
"""Loads an exported model with safetensors, tokenizers and transformers, and compares with `anneal generate`.

    python3 -m venv /tmp/venv && /tmp/venv/bin/pip install torch transformers tokenizers safetensors
    /tmp/venv/bin/python tests/reference/export_compare.py build/release/cli/anneal exports/NAME "a prompt" …

For each prompt: the greedy continuation of transformers (fp32) and of `anneal generate --temperature 0` must be the same text.
Exit status 1 when one differs.
"""
import os
import subprocess
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
import safetensors
import tokenizers
import torch
import transformers

anneal, directory, prompts = sys.argv[1], sys.argv[2], sys.argv[3:]
tokens = 48

count = 0
for name in sorted(os.listdir(directory)):
    if name.endswith(".safetensors"):
        with safetensors.safe_open(os.path.join(directory, name), "pt") as f:
            count += len(list(f.keys()))
            assert f.metadata()["format"] == "pt"
print(f"safetensors {safetensors.__version__}: {count} tensors")
fast = tokenizers.Tokenizer.from_file(os.path.join(directory, "tokenizer.json"))
print(f"tokenizers {tokenizers.__version__}: {fast.get_vocab_size()} tokens")
tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
model = transformers.AutoModelForCausalLM.from_pretrained(directory, torch_dtype=torch.float32).eval()
print(f"transformers {transformers.__version__}: {type(tokenizer).__name__}, {type(model).__name__}")
wrong = 0
for prompt in prompts:
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    assert ids[0].tolist() == fast.encode(prompt).ids, "AutoTokenizer and tokenizers disagree"
    with torch.no_grad():
        out = model.generate(ids, max_new_tokens=tokens, do_sample=False)[0]
    whole = tokenizer.decode(out, skip_special_tokens=True)
    theirs = whole[len(tokenizer.decode(ids[0], skip_special_tokens=True)):]
    ours = subprocess.run([anneal, "generate", directory, prompt, "--max-tokens", str(tokens), "--temperature", "0"],
                          check=True, capture_output=True, text=True).stdout.removesuffix("\n")
    same = ours.rstrip("\n") == theirs.rstrip("\n")
    wrong += not same
    print("same" if same else "DIFFERENT", repr(ours[:100]), "" if same else repr(theirs[:100]))
sys.exit(wrong > 0)
