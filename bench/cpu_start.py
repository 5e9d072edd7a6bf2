#!/usr/bin/env python3
"""What stands around the training steps on the CPU: start-up, loading and saving, threads.

    bench/cpu_start.py [--lengths 2048] [--layers 4] [--keep cpu_start]

start: from the start of a process to its end, less its one step, with a tiny model: the best of several, the median.
load: the bytes of a folder of weights by that time, everything else of the start included, next to read(2) of the same
file from the cache. save: the bytes of a saved state by the time that it adds to the run, checksums and its way to the
disk included, next to a plain copy of the weights that ends on the disk too. threads: the same steps on one thread and on
all. alone is the part of a step on all threads in which one thread works by itself, at most: those who wait do it asleep
in some more runs, of which the best counts, and what they sleep is what the step's processor time lacks (also where one
processor is slower than the other). beside_products is the part that does not
get faster with the threads as the products do (Amdahl's law with the speed-up of products in place of the number of
threads): that part, and all that memory's rate limits.
"""
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import time

import bench_common as bench

SMALL = bench.ROOT / "test/fixtures/llama2"


def thread_scaling(result, folder, tokens, length, steps, repeat=4):
    most = bench.threads()
    one, every = (bench.train(folder, tokens, length, steps + 1, n)[0] for n in (1, most))
    asleep = [bench.train(folder, tokens, length, steps + 1, most, environment={"OMP_WAIT_POLICY": "passive"})[0]
              for _ in range(repeat)]
    speedup = one["best_step_s"] / every["best_step_s"]
    products = every["roof_flops_per_s"] / one["roof_flops_per_s"]
    alone = beside = 0.0
    if most > 1:
        alone = max(0, (most - max(run["step_cpu_s"] / run["step_s"] for run in asleep)) / (most - 1))
        # a step on one thread is beside + rest, on all of them beside + rest / their speed-up
        beside = max(0, (1 / speedup - 1 / products) / (1 - 1 / products)) * speedup
    result.add(what="threads", T=length, threads=most, speedup=round(speedup, 3), products_speedup=round(products, 3),
               alone=round(alone, 4), beside_products=round(beside, 4))


def around(*command):
    """Seconds of a run of one step that are not its step."""
    begin = time.perf_counter()
    out = subprocess.run([bench.PROGRAM, "--seq-len", "64", "--steps", "1", "--warmup", "0", "--device", "cpu", *command],
                         capture_output=True, text=True, check=True).stdout
    seconds = time.perf_counter() - begin
    return seconds - float(re.search(r"([\d.]+) ms", out).group(1)) / 1e3


def start(result, tokens, repeat=15):
    seconds = sorted(around("--model", SMALL, "--train", tokens) for _ in range(repeat))
    result.add(what="start", best_ms=round(1e3 * seconds[0], 1), median_ms=round(1e3 * seconds[repeat // 2], 1))


def copy_rate(source, target):
    """Bytes a second of a plain copy that ends on the disk."""
    begin = time.perf_counter()
    with open(source, "rb") as f, open(target, "wb") as g:
        while block := f.read(16 << 20):
            g.write(block)
        g.flush()
        os.fsync(g.fileno())
    seconds = time.perf_counter() - begin
    os.remove(target)
    return os.path.getsize(source) / seconds


def read_rate(path):
    begin = time.perf_counter()
    with open(path, "rb", buffering=0) as f:
        block = bytearray(16 << 20)
        while f.readinto(block):
            pass
    return os.path.getsize(path) / (time.perf_counter() - begin)


def load_and_save(result, folder, tokens, repeat=3):
    weights, out = os.path.join(folder, "model.safetensors"), os.path.join(folder, "run")
    size, loads, saves, copies, reads = os.path.getsize(weights), [], [], [], []
    for _ in range(repeat):
        plain = around("--model", folder, "--train", tokens)
        saving = around("--model", folder, "--train", tokens, "--out", out)
        state = sum(f.stat().st_size for f in next(pathlib.Path(out).glob("step-*")).iterdir())
        shutil.rmtree(out)
        loads.append(size / plain)
        saves.append(state / (saving - plain))
        copies.append(copy_rate(weights, weights + ".copy"))
        reads.append(read_rate(weights))
    rates = {"load": loads, "read": reads, "save": saves, "copy": copies}
    result.add(what="load and save", weights_mb=round(size / 1e6), state_mb=round(state / 1e6),
               **{f"{name}_gb_per_s": round(max(of) / 1e9, 3) for name, of in rates.items()})


def main():
    parser = bench.arguments(__doc__, [2048], 2)
    parser.set_defaults(layers=4)
    args = bench.parse(parser)
    result = bench.Result("cpu_start", layers=args.layers, C=bench.C, V=bench.V)
    with tempfile.TemporaryDirectory() as folder:
        tokens, few = os.path.join(folder, "tokens.bin"), os.path.join(folder, "few.bin")
        bench.write_model(folder, args.layers)
        bench.write_tokens(tokens, 4 * max(args.lengths) + 1)
        bench.write_tokens(few, 4096, 60)
        start(result, few)
        load_and_save(result, folder, tokens)
        for length in args.lengths:
            thread_scaling(result, folder, tokens, length, args.steps)
    result.write(args.keep)


if __name__ == "__main__":
    main()
