#!/usr/bin/env python3
"""Writes the hand-made part of the fuzz corpora: test/fuzz/corpus/TARGET/seed-*.

    test/fuzz/make_seeds.py

What fuzzing adds to them (`make fuzz-merge`, crashes) has other names and is left alone. The formats of the
inputs are described at the head of each fuzz_TARGET.c.
"""
import json
import pathlib
import struct

CORPUS = pathlib.Path(__file__).resolve().parent / "corpus"


def write(target, name, data):
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"seed-{name}").write_bytes(data)


# ---- safetensors ----


def tensor(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def compact(value):
    return json.dumps(value, separators=(",", ":")).encode()


def made(header, data):
    return b"H" + header + b"\xff" + data


def raw(header, data):
    return b"R" + struct.pack("<Q", len(header)) + header + data


def folder(index, *files):
    return b"F" + b"\xff".join([index] + [part for file in files for part in file])


def safetensors():
    a, b = tensor("F32", [2], 0, 8), tensor("BF16", [1, 3], 8, 14)
    header = compact({"__metadata__": {"format": "pt"}, "a": a, "b": b, "c": tensor("F16", [4, 0], 14, 14)})
    data = bytes(range(14))
    write("safetensors", "raw", raw(header, data))
    write("safetensors", "raw-padded", raw(header + b"   ", data))
    write("safetensors", "truncated", raw(header, data)[:-3])
    write("safetensors", "header-cut", raw(header, b"")[:40])
    write("safetensors", "header-0", raw(b"", data))
    write("safetensors", "header-huge", b"R" + b"\xff" * 8 + header)
    write("safetensors", "short", b"R1234567")
    write("safetensors", "good", made(header, data))
    write("safetensors", "none", made(b"{}", b""))
    for name, header, size in [
        ("overlap", compact({"a": a, "b": tensor("F32", [1], 4, 8)}), 8),
        ("gap", compact({"a": a, "b": tensor("F32", [1], 12, 16)}), 16),
        ("outside", compact({"a": tensor("F32", [2], 4, 12)}), 8),
        ("shape-negative", compact({"a": tensor("F32", [-2], 0, 8)}), 8),
        ("shape-overflow", compact({"a": tensor("F32", [1 << 32, 1 << 32], 0, 8)}), 8),
        ("shape-times-0", compact({"a": tensor("F32", [1 << 53, 1 << 53, 0], 0, 0)}), 0),
        ("shape-9", compact({"a": tensor("F32", [1] * 9, 0, 4)}), 4),
        ("scalar", compact({"a": tensor("F32", [], 0, 4)}), 4),
        ("dtype", compact({"a": tensor("I64", [1], 0, 8)}), 8),
        ("twice", b'{"a":%s,"a":%s}' % (compact(a), compact(tensor("F32", [2], 8, 16))), 16),
        ("key-twice", b'{"a":{"dtype":"F16","dtype":"F32","shape":[2],"data_offsets":[0,8]}}', 8),
        ("metadata", compact({"__metadata__": {"format": 1}}), 0),
        ("metadata-twice", b'{"__metadata__":{},"__metadata__":{}}', 0),
        ("long-name", compact({"n" * 3000: tensor("I8", [1], 0, 1)}), 1),
        ("control-name", compact({"a\x1b[2J\n": tensor("I8", [1], 0, 1)}), 1),
        ("nul-name", b'{"a\\u0000b":{"dtype":"I8","shape":[1],"data_offsets":[0,1]}}', 1),
        ("long-dtype", compact({"a": tensor("F" * 3000, [1], 0, 4)}), 4),
        ("array", b"[]", 0),
        ("deep", b"[" * 1200, 0),
        ("not-json", b'{"a":', 0),
    ]:
        write("safetensors", name, made(header, bytes(size)))

    one = compact({"a": tensor("F32", [1], 0, 4)}), bytes(4)
    two = compact({"b": tensor("F16", [1, 2], 0, 4)}), bytes(4)
    names = {"a": "a.safetensors", "b": "b.safetensors"}

    def index(weights):
        return compact({"metadata": {"total_size": 8}, "weight_map": weights})

    write("safetensors", "folder", folder(index(names), one, two))
    write("safetensors", "index-missing", folder(index(names | {"c": "b.safetensors"}), one, two))
    write("safetensors", "index-no-file", folder(index(names | {"c": "c.safetensors"}), one, two))
    write("safetensors", "index-outside", folder(index({"a": "../a.safetensors"}), one, two))
    write("safetensors", "index-long", folder(index({"a" * 1500: "s" * 1500}), one, two))
    write("safetensors", "index-twice", folder(b'{"weight_map":{"a":"a.safetensors","a":"a.safetensors"}}', one, two))
    write("safetensors", "index-swapped", folder(index({"a": "b.safetensors", "b": "a.safetensors"}), one, two))
    write("safetensors", "index-in-both", folder(index(names), one, one))
    write("safetensors", "index-empty", folder(index({}), one, two))


# ---- config.json ----

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 300,
}
YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 512,
    "beta_fast": 32,
    "beta_slow": 1,
    "mscale": 0.7,
    "mscale_all_dim": 0.9,
    "attention_factor": 1.5,
    "truncate": False,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def hf_config():
    def config(name, **keys):
        write("hf_config", name, compact({"model_type": "llama"} | SIZES | keys))

    fixtures = CORPUS.parent.parent / "fixtures"
    for path in sorted(fixtures.glob("*/config.json")):
        write("hf_config", path.parent.name, path.read_bytes())
    config("rope-4", rope_theta=5e5, rope_scaling=LLAMA3)
    config("rope-5", rope_parameters=LLAMA3 | {"rope_theta": 5e5})
    config("yarn-4", rope_theta=1e6, rope_scaling=YARN)
    config("yarn-5", rope_parameters=YARN | {"rope_theta": 1e6})
    config("yarn-factor", rope_scaling={"rope_type": "yarn", "factor": None, "original_max_position_embeddings": 64})
    config("linear", rope_scaling={"type": "linear", "factor": 2}, original_max_position_embeddings=7)
    config("rope-theta", rope_theta=1e300)
    config("rope-low", rope_scaling=LLAMA3 | {"low_freq_factor": 1e-300, "high_freq_factor": 1e-299})
    config("rope-close", rope_scaling=LLAMA3 | {"low_freq_factor": 1, "high_freq_factor": 1.0000000000000002})
    config("rope-twice", rope_scaling=LLAMA3, rope_parameters=YARN)
    config("windows", model_type="qwen3", use_sliding_window=True, sliding_window=17, max_window_layers=2)
    config("layer-types", model_type="qwen2", use_sliding_window=True, max_window_layers=0,
           layer_types=["full_attention", "sliding_attention"] * 2)
    config("mistral", model_type="mistral", sliding_window=None, head_dim=32, hidden_act="gelu_pytorch_tanh")
    config("flags", attention_bias=True, mlp_bias=True, tie_word_embeddings=True, eos_token_id=[8, 9],
           bos_token_id=None)
    config("largest", hidden_size=1 << 20, intermediate_size=1 << 22, num_hidden_layers=1 << 10, head_dim=1 << 12,
           num_attention_heads=1 << 14, num_key_value_heads=1 << 14, vocab_size=1 << 28)
    config("layers", num_hidden_layers=1 << 40)
    config("eps", rms_norm_eps=1e-300)
    config("unsupported", model_type="gpt2")
    config("quantized", quantization_config={"quant_method": "gptq"})
    config("unknown", unknown=[{"a": 1}])

    good = compact({"model_type": "llama"} | SIZES)
    opened = good[:-1] + b',"x":'
    write("hf_config", "key-twice", b'{"model_type":"llama","vocab_size":3,"vocab_size":4}')
    write("hf_config", "key-twice-deep", opened + b'[{"a":1,"a":2}]}')
    write("hf_config", "nul", good + b"\0{}")
    write("hf_config", "deep", opened + b"[" * 200 + b"]" * 200 + b"}")
    write("hf_config", "spelling", opened + b'[1.0,-0,1e5,12345678901234567890,"3\\"4"]}')
    write("hf_config", "bom", b"\xef\xbb\xbf" + good)
    write("hf_config", "cut", good[:40])
    write("hf_config", "empty", b"")


# ---- token files ----

TEXT, COMPACT, HASHED, COUNTED, MORE, SHUFFLED = 1, 2, 4, 8, 16, 32
V_128, V_256, V_1000, V_50257, V_MOST = 2, 4, 5, 6, 7


def slots(magic, version, count=0, count64=0, vocabulary=0, flags=0, tokenizer=0, payload_hash=0):
    return struct.pack("<iiIiqiiQQ", magic, version, count, 0, count64, vocabulary, flags, tokenizer, payload_hash)


def shard():
    def case(name, bits, vocabulary, file, T=4, rows=1):
        write("shard", name, bytes([bits, vocabulary, T - 1, rows - 1]) + file)

    ids = [(i * 37) % 300 for i in range(40)]
    short, long = struct.pack("<40H", *ids), struct.pack("<40I", *ids)
    marked = struct.pack("<40I", *(n | (i % 3 == 0) << 31 | (i % 5 == 0) << 30 for i, n in enumerate(ids)))
    one, seven = slots(20240520, 1, 40), slots(20240801, 7, 40)
    case("whole-1", 0, V_1000, one + bytes(1024 - len(one)) + short)
    case("whole-7", 0, V_1000, seven + bytes(1024 - len(seven)) + long)
    case("1", COMPACT, V_1000, one + short)
    case("7", COMPACT, V_50257, seven + long, T=39)
    case("8", COMPACT, V_1000, slots(20240801, 8, 40, 40, 1000, 3) + marked, rows=3)
    case("8-counted", COMPACT | COUNTED | HASHED | MORE, V_MOST, slots(20240801, 8, flags=3, tokenizer=7) + marked)
    case("8-hash", COMPACT, V_1000, slots(20240801, 8, 40, 40, 1000, 3, 0, 1) + marked)
    case("8-unannounced", COMPACT, V_1000, slots(20240801, 8, 40, 40) + marked)
    case("8-vocabulary", COMPACT, V_128, slots(20240801, 8, 40, 40, 1000) + long)
    case("8-flags", COMPACT, V_1000, slots(20240801, 8, 40, 40, 0, 4) + long)
    case("8-count", COMPACT, V_1000, slots(20240801, 8, 40, 41) + long)
    case("8-count-negative", COMPACT, V_1000, slots(20240801, 8, 0, -1) + long)
    case("8-count-large", COMPACT, V_1000, slots(20240801, 8, 0, 1 << 62) + long)
    case("count-few", COMPACT, V_1000, slots(20240520, 1, 39) + short)
    case("count-many", COMPACT, V_1000, slots(20240801, 7, 0xFFFFFFFF) + long)
    case("odd", COMPACT, V_1000, one + short + b"x")
    case("magic", COMPACT, V_1000, slots(7, 1, 40) + short)
    case("version", COMPACT, V_1000, slots(20240520, 2, 40) + short)
    case("token", COMPACT, V_256, one + short)
    case("token-V", COMPACT | COUNTED, V_128, one + struct.pack("<9H", 1, 2, 3, 4, 5, 6, 128, 7, 8))
    case("too-short", COMPACT, V_1000, one + short, T=40)
    case("no-tokens", COMPACT, V_1000, slots(20240520, 1))
    case("no-tokens-more", COMPACT | MORE, V_1000, slots(20240520, 1))
    case("cut", 0, V_1000, one)
    case("empty", 0, V_1000, b"")
    case("text", TEXT, V_256, b"a text of bytes, and some more of it", rows=2)
    case("text-small", TEXT | MORE, V_128, b"ascii", T=3)
    case("text-byte", TEXT, V_128, b"not \xc3 ascii")
    case("text-empty", TEXT, V_256, b"")
    case("text-empty-more", TEXT | MORE, V_256, b"")
    case("text-shuffled", TEXT | MORE | SHUFFLED, V_256, b"a text of bytes, and some more of it")


# ---- run folders ----

FOLDER, COMPLETE, SPELLED_OTHERWISE = 1, 2, 4
NO_END, TMP, OLD = 0, 1, 2


def run_folder():
    def case(name, state, *entries):
        write("run_folder", name, compact(state) + b"\xff" + b"".join(map(bytes, entries)))

    def state(samples=6, taken=(6,), **changes):
        data = {"fingerprint": "0123456789abcdef", "tokenizer": "0" * 16, "samples": samples, "taken": list(taken)}
        files = {"model.safetensors": "00000000deadbeef", "optimizer.safetensors": "f" * 16}
        return {"format": 1, "step": 3, "tokens": 18, "data": data, "files": files, "options": {"seq-len": 3}} | changes

    done = FOLDER | COMPLETE
    case("good", state(), (done, 1, NO_END), (done, 2, NO_END), (FOLDER, 3, TMP))
    case("replaced", state(), (done, 1, OLD), (done, 2, OLD), (done, 2, NO_END), (FOLDER, 4, OLD))
    case("spelling", state(), (done | SPELLED_OTHERWISE, 1, NO_END), (done, 1, NO_END), (4, 2, TMP), (0, 5, TMP))
    case("largest", state(), (done, 255, NO_END), (done, 9, NO_END), (0, 3, NO_END))
    case("far", state(1 << 52, [1 << 52]))
    case("unequal", state(6, [5]))
    case("two-sources", state(6, [3, 3]))
    case("no-sources", state(6, []))
    case("fraction", state(6.5))
    case("format", state(format=2))
    case("options", state(options=[]))
    case("missing", {"format": 1})
    write("run_folder", "cut", compact(state())[:60])
    write("run_folder", "empty", b"")


# ---- tokenizers ----

SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
         r"\s*[\r\n]+|\s+(?!\S)|\s+")
TEXT_SEEDS = {"words": "It's 1234 words, isn't\u00a0it?\r\n  x", "marks": "e\u0301\u0323 \u1100\u1161 \u212b",
              "emoji": "\U0001f469\u200d\U0001f467 \u2764\ufe0f", "special": "<s>a</s> <|endoftext|>left right  TOOL",
              "long": "ab" * 60 + " " * 40, "scripts": "\u4eba\u4eba \u0432\u0441\u0435 \u0e04\u0e19"}


def tokenizer_json():
    def case(name, text="ab <s> b\u00e9 a", model=None, **parts):
        vocab = {"<s>": 0, "a": 1, "b": 2, "ab": 3, "\u2581": 4, "\u2581a": 5, "<0xC3>": 6, "<0xA9>": 7}
        added = [{"id": 0, "content": "<s>", "special": True, "normalized": False, "lstrip": True, "rstrip": True},
                 {"id": 8, "content": "word", "single_word": True, "normalized": True}]
        whole = {"added_tokens": added, "normalizer": None, "pre_tokenizer": None, "post_processor": None,
                 "decoder": None, "model": {"type": "BPE", "vocab": vocab, "merges": ["a b", ["\u2581", "a"]],
                                            "unk_token": "<s>", "byte_fallback": True, "fuse_unk": True}}
        whole["model"] |= model or {}
        write("tokenizer_json", name, json.dumps(whole | parts, ensure_ascii=False).encode() + b"\xff" + text.encode())

    def replace(pattern, content):
        return {"type": "Replace", "pattern": {"String": pattern}, "content": content}

    def split(regex, behavior="Isolated"):
        return {"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": behavior == "Removed"}

    visible = [c for c in range(256) if 0x21 <= c <= 0x7e or 0xa1 <= c <= 0xff and c != 0xad]
    alphabet = {chr(c): i for i, c in enumerate(visible + [0x100 + i for i in range(256 - len(visible))])}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
    case("plain")
    case("bytes", model={"vocab": alphabet, "merges": [["a", "b"]][:0], "unk_token": None}, added_tokens=[],
         pre_tokenizer={"type": "Sequence", "pretokenizers": [split(SPLIT), byte_level]},
         decoder={"type": "ByteLevel"}, post_processor=byte_level)
    case("gpt2", model={"vocab": alphabet, "merges": [], "unk_token": None, "ignore_merges": True},
         added_tokens=[], pre_tokenizer={"type": "ByteLevel"}, decoder={"type": "ByteLevel"})
    case("llama2", normalizer={"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "\u2581"}, replace(" ", "\u2581")]},
        decoder={"type": "Sequence", "decoders": [
            replace("\u2581", " "), {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        post_processor={"type": "TemplateProcessing",
                        "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}],
                        "special_tokens": {"<s>": {"id": "<s>", "ids": [0]}}})
    meta = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": True}
    case("meta", pre_tokenizer=meta, decoder=meta, normalizer={"type": "NFC"})
    case("removed", pre_tokenizer=split(r"[\p{L}\p{M}]++|\d|\u00e9|\x41", "Removed"))
    case("refused-regex", pre_tokenizer=split(r"(?<n>a)\1"))
    case("refused-model", model={"type": "Unigram"})
    case("refused-merge", model={"merges": ["a c"]})
    write("tokenizer_json", "cut", b'{"model": {"vocab": {"a": 0}, "merges": ["a')


def tokenizer_text():
    for name, text in TEXT_SEEDS.items():
        for kind in range(4):
            write("tokenizer_text", f"{name}-{kind}", bytes([kind]) + text.encode())
    write("tokenizer_text", "invalid", b"\0a\xe2\x82 \xed\xa0\x80")


safetensors()
hf_config()
shard()
run_folder()
tokenizer_json()
tokenizer_text()
