"""What the benchmarks of the CPU share: the model, its data, runs of ./train_llama, and how a result is kept."""
import argparse
import array
import datetime
import json
import os
import pathlib
import random
import struct
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAM = ROOT / "train_llama"  # or what --program names

# 12 layers of the width of GPT-2: 134 million parameters.
LAYERS, C, HEADS, FF, V = 12, 768, 12, 2048, 32000


def fail(message):
    print(f"{os.path.basename(sys.argv[0])}: {message}", file=sys.stderr)
    sys.exit(2)


def arguments(description, lengths, steps):
    """A parser of what all of them take."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=lengths, metavar="T")
    parser.add_argument("--steps", type=int, default=steps, help="steps that count, after a first one")
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--program", type=pathlib.Path, default=PROGRAM, help="default: ./train_llama")
    parser.add_argument("--keep", metavar="NAME", help="write the result to bench/results/NAME.json")
    return parser


def parse(parser):
    global PROGRAM
    args = parser.parse_args()
    PROGRAM = args.program
    if not PROGRAM.exists():
        fail(f"found no {PROGRAM}. Build it with make.")
    return args


def config(layers):
    """config.json of the model, for transformers and for ./train_llama."""
    return {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": C, "intermediate_size": FF,
            "num_hidden_layers": layers, "num_attention_heads": HEADS, "num_key_value_heads": HEADS, "head_dim": C // HEADS,
            "vocab_size": V, "max_position_embeddings": 32768, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
            "hidden_act": "silu", "tie_word_embeddings": False, "torch_dtype": "float32", "attention_bias": False,
            "mlp_bias": False, "initializer_range": 0.02}


def shapes(layers):
    yield "model.embed_tokens.weight", (V, C)
    for i in range(layers):
        at = f"model.layers.{i}."
        for name in "qkvo":
            yield at + f"self_attn.{name}_proj.weight", (C, C)
        yield at + "mlp.gate_proj.weight", (FF, C)
        yield at + "mlp.up_proj.weight", (FF, C)
        yield at + "mlp.down_proj.weight", (C, FF)
        yield at + "input_layernorm.weight", (C,)
        yield at + "post_attention_layernorm.weight", (C,)
    yield "model.norm.weight", (C,)
    yield "lm_head.weight", (V, C)


def parameters(layers):
    return sum(s[0] * (s[1] if len(s) > 1 else 1) for _, s in shapes(layers))


def write_model(folder, layers):
    """A Hugging Face folder with random weights: the same million of normal numbers over and over."""
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump(config(layers), f)
    draw = random.Random(1)
    normal = array.array("f", (draw.gauss(0, 0.02) for _ in range(1000003))).tobytes()
    header, offset = {}, 0
    for name, shape in shapes(layers):
        size = 4 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(os.path.join(folder, "model.safetensors"), "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for name, shape in shapes(layers):
            size = header[name]["data_offsets"][1] - header[name]["data_offsets"][0]
            if len(shape) == 1:
                f.write(array.array("f", [1.0]).tobytes() * shape[0])
                continue
            f.write((normal * (size // len(normal) + 1))[:size])


def write_tokens(path, count, most=V):
    """A shard of uniform random tokens below `most`, version 1 of docs/formats.md."""
    draw = random.Random(2)
    with open(path, "wb") as f:
        f.write(array.array("i", [20240520, 1, count] + [0] * 253).tobytes())
        f.write(array.array("H", (draw.randrange(most) for _ in range(count))).tobytes())


# What gradient checkpointing is elsewhere: a layer's input is kept and no more. A run by itself keeps as much as there is
# room for.
CHECKPOINTING = ["--recompute", "layer", "--keep-attention", "0", "--checkpoint-every", "1", "--attn-groups", "1",
                 "--offload", "none"]


def command(model, tokens, length, steps, threads, *flags):
    """./train_llama, with checkpointing unless the flags say otherwise."""
    if "--recompute" not in flags:
        flags = (*CHECKPOINTING, *flags)
    return [str(PROGRAM), "--model", model, "--train", tokens, "--seq-len", str(length), "--steps", str(steps),
            "--warmup", "0", "--batch", "1", "--device", "cpu", "--threads", str(threads), *flags]


def train(*arguments, environment=None):
    """Runs a command; its profile, and all that it prints."""
    out, _ = run([*command(*arguments), "--profile", "--json"], environment)
    return json.loads(out[out.rindex("\n{\n"):]), out


def run(words, environment=None):
    """What a process prints, and its peak resident bytes."""
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})})
    out = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        fail(f"{' '.join(words)}: exit status {os.waitstatus_to_exitcode(status)}")
    return out, usage.ru_maxrss * 1024


def threads():
    return int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))


def cpu_name():
    with open("/proc/cpuinfo") as f:
        return next((line.split(":")[1].strip() for line in f if line.startswith("model name")), "unknown")


def commit():
    def git(*arguments):
        return subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True).stdout.strip()
    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!bench/results")
    return (git("rev-parse", "--short", "HEAD") or "unknown") + (", with changes" if changed else "")


def libraries():
    """The shared BLAS that the program is linked with."""
    out = subprocess.run(["ldd", str(PROGRAM)], capture_output=True, text=True).stdout
    return [line.split()[0] for line in out.splitlines() if any(n in line for n in ("blas", "blis", "mkl"))]


class Result:
    """Collects the rows of a table; says what machine, load and program they come from, and keeps them."""

    def __init__(self, name, **about):
        self.name, self.rows = name, []
        self.about = {"bench": name, "cpu": cpu_name(), "threads": threads(), "date": datetime.date.today().isoformat(),
                      "commit": commit(), "blas": libraries(), "load_before": [round(x, 2) for x in os.getloadavg()],
                      **about}

    def add(self, **row):
        row["load"] = round(os.getloadavg()[0], 2)
        self.rows.append(row)
        print(json.dumps(row), flush=True)

    def write(self, keep):
        """keep: a name in bench/results, or None."""
        text = json.dumps({**self.about, "load_after": [round(x, 2) for x in os.getloadavg()], "rows": self.rows},
                          indent=1) + "\n"
        if keep:
            (ROOT / "bench/results" / f"{keep}.json").write_text(text)
