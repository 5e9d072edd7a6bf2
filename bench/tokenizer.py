#!/usr/bin/env python3
"""Speed and memory of ./tokenize against Hugging Face's `tokenizers` (Rust) on the same file and cores.

    bench/tokenizer.py [--tokenizer tokenizer.json] [--text FILE] [--megabytes 60] [--repeat 3]

Without --tokenizer, one in the style of Llama 3 (its regular expression, ignore_merges) is trained on the text,
with up to 128,000 tokens; without --text, the text is what Debian has under /usr/include, /usr/lib/python3 and
/usr/share/perl. Documents are pieces of about 4 KB, as JSONL. Timed are: of `tokenizers`, the calls of
encode_batch_fast alone, on batches of 1000 documents, on all cores; of ./tokenize, the whole program with reading
the tokenizer and the JSON, and writing shards. The two take turns; the best time of each counts. Memory is the
peak resident size of each process; that of Python alone, which has only imported `tokenizers`, is given too.
The result goes to bench/results/tokenizer.json."""
import argparse
import datetime
import json
import os
import pathlib
import platform
import resource
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent


def peak_bytes(who):
    return resource.getrusage(who).ru_maxrss * 1024


def run_theirs(tokenizer_path, path):
    """In a process of its own: prints seconds, tokens and memory."""
    import tokenizers
    base = peak_bytes(resource.RUSAGE_SELF)
    tokenizer = tokenizers.Tokenizer.from_file(tokenizer_path)
    seconds, tokens, batch = 0.0, 0, []

    def encode():
        nonlocal seconds, tokens
        begin = time.perf_counter()
        encodings = tokenizer.encode_batch_fast(batch, add_special_tokens=False)
        seconds += time.perf_counter() - begin
        tokens += sum(len(e) for e in encodings)
        batch.clear()

    with open(path) as f:
        for line in f:
            batch.append(json.loads(line)["text"])
            if len(batch) == 1000:
                encode()
    encode()
    print(json.dumps({"seconds": seconds, "tokens": tokens, "peak_bytes": peak_bytes(resource.RUSAGE_SELF),
                      "python_bytes": base, "version": tokenizers.__version__}))


def run_child(command):
    """Seconds and peak memory of a process, and what it printed."""
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    out = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{command[0]} failed")
    return time.perf_counter() - begin, usage.ru_maxrss * 1024, out


def debian_text(megabytes):
    text, limit = [], megabytes * 1000000
    for folder in "/usr/include", "/usr/lib/python3", "/usr/lib/python3.11", "/usr/share/perl":
        for path in sorted(pathlib.Path(folder).rglob("*")):
            if limit > 0 and path.suffix in {".h", ".hpp", ".py", ".pm", ".pod"} and path.is_file():
                text.append(path.read_text(errors="ignore"))
                limit -= len(text[-1])
    return "".join(text)


def train(text, path):
    sys.path.insert(0, str(ROOT / "test"))
    import make_tokenizer_fixtures as fixtures
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    t = Tokenizer(models.BPE(ignore_merges=True))
    t.pre_tokenizer = fixtures.split_byte_level(fixtures.LLAMA3)
    t.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=128000, min_frequency=1, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    t.train_from_iterator((text[i:i + 100000] for i in range(0, len(text), 100000)), trainer)
    t.add_special_tokens(fixtures.SPECIALS)
    t.save(path)


def cpu_name():
    for line in open("/proc/cpuinfo"):
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def prepare(args, folder):
    """Writes tokenizer.json (unless one is given) and text.jsonl. A process of its own does it: a child's peak
    memory counts what its parent held when it was made."""
    text = pathlib.Path(args.text).read_text(errors="ignore") if args.text else debian_text(args.megabytes)
    text = text.replace("\0", "")[:args.megabytes * 1000000]
    if not args.tokenizer:
        train(text, folder + "/tokenizer.json")
    documents = [text[i:i + 4000] for i in range(0, len(text), 4000)]
    with open(folder + "/text.jsonl", "w") as f:
        f.writelines(json.dumps({"text": d}, ensure_ascii=False) + "\n" for d in documents)
    size = sum(len(d.encode()) for d in documents)
    vocab = len(json.load(open(args.tokenizer or folder + "/tokenizer.json"))["model"]["vocab"])
    print(json.dumps({"text_bytes": size, "documents": len(documents), "vocab": vocab}))


def measure(tokenizer, folder, repeat, size):
    """The runs of both, in turns."""
    ours, theirs, path = [], [], folder + "/text.jsonl"
    for i in range(repeat):
        out = f"{folder}/out{i}"
        seconds, peak, _ = run_child([str(ROOT / "tokenize"), "--tokenizer", tokenizer, "--input", path, "--out", out,
                                      "--bos", "none", "--eos", "none"])
        tokens = json.load(open(out + "/tokenize.json"))["train"]["tokens"]
        ours.append({"seconds": seconds, "peak_bytes": peak, "tokens": tokens})
        _, _, said = run_child([sys.executable, __file__, "--theirs", tokenizer, path])
        theirs.append(json.loads(said))
        print(f"# ./tokenize {size / seconds / 1e6:.1f} MB/s, {peak / 1e6:.0f} MB | tokenizers "
              f"{size / theirs[-1]['seconds'] / 1e6:.1f} MB/s, {theirs[-1]['peak_bytes'] / 1e6:.0f} MB")
    if any(o["tokens"] != t["tokens"] for o, t in zip(ours, theirs)):
        sys.exit("the numbers of tokens differ")
    return ours, theirs


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer")
    parser.add_argument("--text")
    parser.add_argument("--megabytes", type=int, default=60)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--theirs", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--prepare", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.theirs or args.prepare:
        prepare(args, args.prepare) if args.prepare else run_theirs(*args.theirs)
        return
    with tempfile.TemporaryDirectory() as folder:
        _, _, said = run_child([sys.executable, __file__, *sys.argv[1:], "--prepare", folder])
        about = json.loads(said)
        load = os.getloadavg()
        ours, theirs = measure(args.tokenizer or folder + "/tokenizer.json", folder, args.repeat, about["text_bytes"])
    best, other = min(o["seconds"] for o in ours), min(t["seconds"] for t in theirs)
    peak, other_peak = max(o["peak_bytes"] for o in ours), min(t["peak_bytes"] for t in theirs)
    commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    result = {
        "date": datetime.date.today().isoformat(), "commit": commit.stdout.strip(), "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)), "load_before": [round(x, 2) for x in load], **about,
        "tokens": ours[0]["tokens"], "tokenizers_version": theirs[0]["version"],
        "tokenize_mb_per_s": round(about["text_bytes"] / best / 1e6, 2),
        "tokenizers_mb_per_s": round(about["text_bytes"] / other / 1e6, 2), "speed_ratio": round(other / best, 2),
        "tokenize_peak_mb": round(peak / 1e6, 1), "tokenizers_peak_mb": round(other_peak / 1e6, 1),
        "python_alone_mb": round(theirs[0]["python_bytes"] / 1e6, 1), "memory_ratio": round(peak / other_peak, 3),
        "runs": {"tokenize_s": [round(o["seconds"], 2) for o in ours],
                 "tokenizers_s": [round(t["seconds"], 2) for t in theirs]}}
    results = ROOT / "bench/results"
    results.mkdir(parents=True, exist_ok=True)
    (results / "tokenizer.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
