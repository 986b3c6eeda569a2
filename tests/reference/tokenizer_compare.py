"""Compares token ids with SentencePiece and Hugging Face tokenizers, on real rows and on random Unicode text.

A development check; CI does not run it. From the project's root, after a release build:

    python3 -m venv /tmp/venv-tok
    /tmp/venv-tok/bin/pip install tokenizers sentencepiece transformers protobuf
    /tmp/venv-tok/bin/python tests/reference/tokenizer_compare.py [--build build/release] [--data ../shared/data]

It compiles tokenizer_ids.c against the build's libraries and checks, for each tokenizer.model in the data folder:
  - our ids of tokenizer.model = SentencePiece's, with special tokens spelt out in texts as plain text;
  - our ids of the tokenizer.json that we write = those of `tokenizers` and of transformers.AutoTokenizer for the same
    file, <bos> included, and the decoded text too;
and for GPT-2 and pipelines in the styles of Llama 3, Qwen 2 and others put around its vocabulary, that our ids and
decoded texts = those of `tokenizers`; and the same for a tokenizer made of learnt merges, whose merges are also
compared with a trainer written plainly here. Prints one line per comparison; exits 1 when something differs.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections import Counter

import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer

ADD_SPECIAL, PLAIN_SPECIAL = 1, 2
failures = 0


def real_texts(data):
    def rows(name):
        with open(os.path.join(data, name)) as f:
            return [json.loads(line) for line in f]

    out = []
    for r in rows("sql_create_context/rows.jsonl"):
        out.append(f"Question: {r['question']}\nContext: {r['context']}\nAnswer: {r['answer']}")
    for name in ("train", "valid", "test"):
        out += [r["text"] for r in rows(f"wikisql/{name}.jsonl")]
    with open(os.path.join(data, "spider/dev.json")) as f:
        for r in json.load(f):
            out += [r["question"], r["query"], json.dumps(r)]
    for name in ("gemma", "llama2", "tok512", "gpt-2", "llama-spm"):
        out += [r["text"] for r in rows(f"golden/{name}.jsonl")]
    return out


def random_texts(n, seed=1):
    rng = random.Random(seed)
    ranges = [(0x20, 0x7E)] * 6 + [(0x00, 0x1F), (0xA0, 0x24F), (0x300, 0x36F), (0x370, 0x5FF), (0x600, 0x6FF),
              (0x900, 0x97F), (0xE00, 0xE7F), (0x1100, 0x11FF), (0x2000, 0x206F), (0x2070, 0x2BFF), (0x3000, 0x30FF),
              (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0xF900, 0xFFFD), (0x1F300, 0x1FAFF), (0x10000, 0x10FFFF)]
    words = [" ", "  ", "   ", "\n", "\n\n", "\t", "▁", "▁▁", "<bos>", "<eos>", "<s>", "</s>", "<unk>", "<pad>", "the", " SELECT",
             "<start_of_turn>", "<0x41>", "don't", "I'LL", "123", "4567", "é", "e\u0301", "<|endoftext|>", "</table>", "<table>", "\r\n",
             "\u00a0", "\u3000", "ﬁ", "İ", "ß", "Å", "한국", "\u1112\u1161\u11ab", "🤖", "👩‍👩‍👧", "aaaaaaa", "ababab"]
    out = []
    for _ in range(n):
        parts = []
        for _ in range(rng.randrange(1, 24)):
            if rng.random() < 0.45:
                parts.append(rng.choice(words))
            else:
                low, high = rng.choice(ranges)
                parts += [chr(rng.randint(low, high)) for _ in range(rng.randrange(1, 5))]
        # Punctuation since Unicode 14; the tables of `tokenizers` are older than utf8proc's.
        out.append("".join(parts).replace("\u061d", ""))
    return out


class Ours:
    def __init__(self, args):
        self.exe = os.path.join(tempfile.mkdtemp(), "tokenizer_ids")
        libs = [os.path.join(args.build, f"{d}/libanneal_{d}.a") for d in ("tokenizer", "base")]
        here = os.path.dirname(os.path.abspath(__file__))
        subprocess.check_call(["cc", "-O1", "-D_GNU_SOURCE", "-I", os.path.join(here, "../.."), "-o", self.exe,
                               os.path.join(here, "tokenizer_ids.c"), *libs, "-lpcre2-8", "-lutf8proc", "-ljansson",
                               "-lcrypto", "-lpthread", "-ldl", "-lm"])

    def encode(self, path, texts, flags):
        r = subprocess.run([self.exe, "encode", path, str(flags)], input="".join(json.dumps(t) + "\n" for t in texts).encode(),
                           stdout=subprocess.PIPE)
        if r.returncode:
            sys.exit("tokenizer_ids failed")
        return [json.loads(line) for line in r.stdout.decode().split("\n")[:-1]]

    def run(self, *args):
        subprocess.check_call([self.exe, *args])


def report(name, texts, ours, ids, decoded=None):
    global failures
    bad = [i for i in range(len(texts)) if ours[i]["ids"] != ids[i]]
    bad_text = [i for i in range(len(texts)) if decoded and i not in bad and ours[i]["text"] != decoded[i]]
    bad_ends = [i for i in range(len(texts)) if ours[i]["ends"] != sorted(ours[i]["ends"])
                or any(e > len(texts[i].encode()) for e in ours[i]["ends"])]
    print(f"{name}: {len(texts)} texts, {sum(map(len, ids))} ids, {len(bad)} texts differ, "
          f"{len(bad_text)} decode differently, {len(bad_ends)} bad ends")
    for i in bad[:3]:
        print("   text", ascii(texts[i][:200]), "\n   ours", ours[i]["ids"][:60], "\n   want", ids[i][:60])
    for i in bad_text[:3]:
        print("   text", ascii(ours[i]["text"][:200]), "\n   want", ascii(decoded[i][:200]))
    failures += bool(bad or bad_text or bad_ends)


def compare_hf(name, ours, directory, texts, decodes=True):
    hf = Tokenizer.from_file(os.path.join(directory, "tokenizer.json"))
    want = [e.ids for e in hf.encode_batch(texts, add_special_tokens=True)]
    decoded = [hf.decode(ids, skip_special_tokens=False) for ids in want] if decodes else None
    report(name, texts, ours.encode(directory, texts, ADD_SPECIAL), want, decoded)


def compare_models(ours, data, texts):
    for model in ("gemma", "llama2", "stories260K"):
        path = os.path.join(data, model, "tokenizer.model")
        sp = sentencepiece.SentencePieceProcessor(model_file=path)
        plain = [t for t in texts if "\0" not in t]
        report(f"{model} tokenizer.model, SentencePiece", plain, ours.encode(path, plain, PLAIN_SPECIAL), sp.encode(plain))
        with tempfile.TemporaryDirectory() as d:
            ours.run("write", path, d)
            compare_hf(f"{model} written tokenizer.json, tokenizers", ours, d, texts)
            both, of_model = ours.encode(d, texts, ADD_SPECIAL), ours.encode(path, texts, ADD_SPECIAL)
            report(f"{model} tokenizer.model, our tokenizer.json", texts, of_model, [r["ids"] for r in both])
            auto = AutoTokenizer.from_pretrained(d)
            report(f"{model} written directory, AutoTokenizer", texts, ours.encode(d, texts, ADD_SPECIAL),
                   auto(texts)["input_ids"])


LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def compare_pipelines(ours, data, texts):
    with open(os.path.join(data, "gpt2/encoder.json")) as f:
        vocab = json.load(f)
    with open(os.path.join(data, "gpt2/vocab.bpe")) as f:
        merges = [tuple(line.split(" ")) for line in f.read().split("\n")[1:] if line]

    def byte_level(pattern):
        return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"),
                                        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])

    N, P = normalizers, pre_tokenizers
    bl = P.ByteLevel(add_prefix_space=False, use_regex=False)
    pipelines = {
        "gpt2": (None, P.ByteLevel(add_prefix_space=False)),
        "gpt2 prefix space": (None, P.ByteLevel(add_prefix_space=True)),
        "llama3": (None, byte_level(LLAMA3)),
        "qwen2": (N.NFC(), byte_level(QWEN2)),
        "o200k": (None, byte_level(O200K)),
        "nfkc lowercase": (N.Sequence([N.NFKC(), N.Lowercase(), N.Strip()]), P.ByteLevel(add_prefix_space=False)),
        "nfd strip accents": (N.Sequence([N.NFD(), N.StripAccents()]), P.ByteLevel(add_prefix_space=False)),
        "nfkd replace": (N.Sequence([N.NFKD(), N.Replace(Regex(r"\s+"), " "), N.Prepend("_")]), P.ByteLevel()),
        "digits, punctuation": (None, P.Sequence([P.Digits(True), P.Punctuation(), bl])),
        "digits together": (None, P.Sequence([P.Digits(False), P.Punctuation("merged_with_next"), bl])),
        "white space": (None, P.Sequence([P.Whitespace(), bl])),
        "white space split": (None, P.Sequence([P.WhitespaceSplit(), bl])),
        "metaspace": (None, P.Sequence([P.Metaspace("_", "first"), bl])),
        "metaspace always": (None, P.Sequence([P.Metaspace("_", "always", split=False), bl])),
    }
    for behavior in ("removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous"):
        for invert in (False, True):
            pipelines[f"split {behavior} {invert}"] = (
                None, P.Sequence([P.Split(Regex(r"[aeiou ]"), behavior, invert), P.Split(" ", behavior, invert), bl]))
    for name, (normalizer, pre) in pipelines.items():
        t = Tokenizer(models.BPE(vocab, merges, ignore_merges=name == "llama3"))
        if normalizer:
            t.normalizer = normalizer
        t.pre_tokenizer = pre
        t.decoder = decoders.ByteLevel()
        t.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), processors.TemplateProcessing(
            single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 50256)])])
        t.add_special_tokens(["<|endoftext|>", AddedToken("<eos>", lstrip=True, rstrip=True)])
        t.add_tokens([AddedToken("SELECT", single_word=True), AddedToken("<s>", normalized=False, rstrip=True), "</table>",
                      AddedToken("123", single_word=True, lstrip=True)])
        with tempfile.TemporaryDirectory() as d:
            t.save(os.path.join(d, "tokenizer.json"))
            # Recent releases decode an added token as its normalised content, earlier ones, and we, as its content.
            compare_hf(f"{name}, tokenizers", ours, d, texts, decodes=normalizer is None)


def train_plainly(words, n):
    """The rule of tokenizer_train_bpe, without its speed."""
    words = {w: list(w) for w in words}, words
    merges, spelt, passed, symbols = [], set(), set(), {i: bytes([i]) for i in range(256)}
    while len(merges) < n:
        counts = Counter()
        for w, s in words[0].items():
            for p in zip(s, s[1:]):
                counts[p] += words[1][w]
        best = min((p for p in counts if counts[p] > 1 and p not in passed), key=lambda p: (-counts[p], p), default=None)
        if best is None:
            break
        joined = symbols[best[0]] + symbols[best[1]]
        if joined in spelt:
            passed.add(best)
            continue
        spelt.add(joined)
        made = 256 + len(merges)
        symbols[made] = joined
        merges.append((symbols[best[0]], symbols[best[1]]))
        for w, s in words[0].items():
            i, out = 0, []
            while i < len(s):
                here = i + 1 < len(s) and (s[i], s[i + 1]) == best
                out.append(made if here else s[i])
                i += 2 if here else 1
            words[0][w] = out
    return merges


def compare_trained(ours, texts):
    sample = texts[:300]
    with tempfile.TemporaryDirectory() as d:
        with open(os.path.join(d, "texts"), "w") as f:
            f.writelines(json.dumps(t) + "\n" for t in sample)
        ours.run("bytes", os.path.join(d, "texts"), "400", d)
        compare_hf("learnt merges, tokenizers", ours, d, texts)
        report("learnt merges, AutoTokenizer", texts, ours.encode(d, texts, ADD_SPECIAL),
               AutoTokenizer.from_pretrained(d)(texts)["input_ids"])
        with open(os.path.join(d, "tokenizer.json")) as f:
            made = [tuple(m) for m in json.load(f)["model"]["merges"]]
    split = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = dict(zip(sorted(pre_tokenizers.ByteLevel.alphabet()), [None] * 256))
    table = bytes_to_unicode()
    assert set(alphabet) == set(table.values())
    back = {v: k for k, v in table.items()}
    words = Counter(bytes(back[c] for c in w) for t in sample for w, _ in split.pre_tokenize_str(t))
    want = [tuple("".join(table[b] for b in side) for side in m) for m in train_plainly(words, 400)]
    global failures
    failures += made != want
    print(f"learnt merges, plain trainer: {len(made)} merges, {'the same' if made == want else 'different'}")


def bytes_to_unicode():
    own = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 172 or b >= 174]
    rest = [b for b in range(256) if b not in own]
    return {b: chr(b) for b in own} | {b: chr(256 + i) for i, b in enumerate(rest)}


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--build", default="build/release")
    p.add_argument("--data", default="../shared/data")
    p.add_argument("--random", type=int, default=5000)
    args = p.parse_args()
    ours = Ours(args)
    texts = real_texts(args.data) + random_texts(args.random)
    compare_trained(ours, texts)
    compare_pipelines(ours, args.data, texts)
    compare_models(ours, args.data, texts)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
