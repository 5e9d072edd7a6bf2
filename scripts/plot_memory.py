#!/usr/bin/env python3
"""Draws what mini-sequences save: memory of activations against sequence length, in four modes.

    scripts/plot_memory.py [--program ./train_llama] [--model llama3-8b] [-o docs/memory.png]

The numbers are planned bytes, from `--plan --json`: nothing is trained, and no weights are needed. Needs gnuplot
(gnuplot-nox). Counted is the peak of device memory without weights, gradients and optimizer.
"""
import argparse
import json
import shutil
import subprocess
import sys

MODES = [
    ("vanilla", "#6b7280", ["--recompute", "none", "--mlp-chunk", "0", "--head-chunk", "0"]),
    ("checkpointing", "#d97706", ["--recompute", "layer", "--mlp-chunk", "0", "--head-chunk", "0"]),
    ("mini-sequences", "#2563eb", ["--recompute", "layer"]),
    ("mini-sequences, a checkpoint every 4 layers", "#059669", ["--recompute", "layer", "--checkpoint-every", "4"]),
]
LENGTHS = [2**i * 1024 for i in range(2, 9)]
STATE = ("weights", "master weights", "gradients", "moments")  # categories that do not grow with T


def fail(message):
    sys.exit(f"plot_memory.py: {message}")


def activation_bytes(program, model, length, flags):
    command = [program, "--plan", "--json", "--model", model, "--dtype", "bf16", "--moments", "bf16",
               "--batch", "1", "--seq-len", str(length), *flags]
    result = subprocess.run(command, text=True, capture_output=True, check=False)
    if result.returncode != 0:
        fail(f"{' '.join(command)}:\n{result.stderr.strip()}")
    plan = json.loads(result.stdout)
    return max(sum(bytes_ for category, bytes_ in moment["device"].items() if category not in STATE)
               for moment in plan["moments"])


def draw(model, table, output):
    blocks, curves = [], []
    for i, (name, color, _) in enumerate(MODES):
        rows = "\n".join(f"{length} {table[length][i] / 1e9:.6g}" for length in LENGTHS)
        blocks.append(f"$d{i} << EOD\n{rows}\nEOD")
        curves.append(f"$d{i} with linespoints linecolor rgb '{color}' linewidth 2 pointtype 7 pointsize 0.8 "
                      f"title \"{name}\"")
    tics = ", ".join(f"'{length // 1024}K' {length}" for length in LENGTHS)
    script = "\n".join([
        "set encoding utf8",
        "set terminal pngcairo size 1000,580 font 'DejaVu Sans,12' background '#ffffff' linewidth 1.3",
        f"set output '{output}'",
        "set border 3 linecolor '#9ca3af'; set grid linecolor '#e5e7eb' linetype 1 linewidth 0.8",
        "set tics nomirror out scale 0.5 textcolor '#374151'",
        f"set title '{model}, bf16, one sequence: activations at their peak, as planned' noenhanced font ',14'",
        "set key top left Left reverse noenhanced spacing 1.25 textcolor '#374151'; set rmargin 5",
        "set logscale x 2; set logscale y 10",
        f"set xtics ({tics}); set xrange [{LENGTHS[0]}:{LENGTHS[-1]}]",
        "set xlabel 'tokens in the sequence' textcolor '#374151'",
        "set ylabel 'GB' textcolor '#374151'; set format y '%g'",
        *blocks,
        f"plot {', '.join(curves)}",
    ])
    result = subprocess.run(["gnuplot"], input=script, text=True, capture_output=True, check=False)
    if result.returncode != 0:
        fail(f"gnuplot could not draw {output}:\n{result.stderr.strip()}")
    print(f"wrote {output}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default="./train_llama", help="the trainer (default %(default)s)")
    parser.add_argument("--model", default="llama3-8b", help="a preset or a folder (default %(default)s)")
    parser.add_argument("-o", "--output", default="memory.png", help="the PNG to write (default %(default)s)")
    options = parser.parse_args()
    if not shutil.which(options.program):
        fail(f"found no {options.program}. Run make, or give --program.")
    if not shutil.which("gnuplot"):
        fail("found no gnuplot. Install it (Debian, Ubuntu: apt-get install gnuplot-nox).")
    table = {length: [activation_bytes(options.program, options.model, length, flags) for _, _, flags in MODES]
             for length in LENGTHS}
    print(f"{'tokens':>8}" + "".join(f"{name:>45}" for name, _, _ in MODES) + "   GB")
    for length in LENGTHS:
        print(f"{length:8d}" + "".join(f"{bytes_ / 1e9:45.2f}" for bytes_ in table[length]))
    draw(options.model, table, options.output)


if __name__ == "__main__":
    main()
