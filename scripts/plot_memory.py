#!/usr/bin/env python3
"""Draws what mini-sequences save: activation memory over the sequence length, in four ways to train.

    scripts/plot_memory.py -o out.png [--program ./train_llama] [--model llama3-8b]

The bytes are those of `train_llama --plan --json`, so nothing is trained and any length fits. Counted is the device
memory of a run less its weights, gradients and optimizer moments, which do not depend on the length. The plans are
for one sequence in bf16 on the CPU device with one thread, which are the same on every machine. The numbers are
printed as well, in GB (10^9 bytes). Needs gnuplot (gnuplot-nox) and nothing else.
"""
import argparse

import gnuplot
from common import check_output, read_plan
from gnuplot import COLORS, TERMINALS, label

LENGTHS = [4096 << i for i in range(7)]
STATE = ["weights", "master weights", "gradients", "moments"]
COMMON = "--dtype bf16 --moments bf16 --batch 1 --device cpu --threads 1 --keep-attention 0 --attn-groups 1 --offload none"
MODES = [  # name, flags, color
    ("vanilla: every activation kept", "--recompute none --mlp-chunk 0 --head-chunk 0", COLORS[1]),
    ("checkpointing: layers recomputed", "--recompute layer --checkpoint-every 1 --mlp-chunk 0 --head-chunk 0", COLORS[3]),
    ("mini-sequences: and MLP, LM head in chunks", "--recompute layer --checkpoint-every 1", COLORS[0]),
    ("mini-sequences, every 4th layer's input kept", "--recompute layer --checkpoint-every 4", COLORS[2]),
]


def activation_bytes(program, model, length, flags):
    """Bytes of a run on the device that are neither weights nor gradients nor moments."""
    plan = read_plan(program, ["--model", model, "--seq-len", str(length), *COMMON.split(), *flags.split()])
    device = plan["spaces"]["device"]
    live = plan["moments"][device["peak_moment"]]["device"]
    return device["bytes"] - sum(live.get(category, 0) for category in STATE)


def length_text(length):
    return f"{length // 1024}Ki"


def gigabytes(count):
    return f"{count / 1e9:.3g}" if count < 1e12 else f"{count / 1e9:.0f}"


def print_table(curves):
    width = max(len(name) for name, _, _ in MODES)
    print(f"{'activation memory, GB':{width}}" + "".join(f"{length_text(length):>8}" for length in LENGTHS))
    for (name, _, _), counts in zip(MODES, curves):
        print(f"{name:{width}}" + "".join(f"{gigabytes(count):>8}" for count in counts))


def program_text(model, curves):
    blocks, elements = [], []
    for i, ((name, _, color), counts) in enumerate(zip(MODES, curves)):
        blocks.append(gnuplot.block(f"$d{i}", [(x, count / 1e9) for x, count in zip(LENGTHS, counts)]))
        elements.append(
            f"$d{i} with linespoints linecolor rgb '{color}' linewidth 2 pointtype 7 pointsize 0.9 title {label(name)}"
        )
        blocks.append(
            f"set label {label(gigabytes(counts[-1]) + ' GB')} at {LENGTHS[-1]},{counts[-1] / 1e9:.9g} left "
            f"offset 0.9,0 textcolor '{color}'"
        )
    tics = ", ".join(f"{label(length_text(length))} {length}" for length in LENGTHS)
    most = max(max(counts) for counts in curves) / 1e9
    least = min(min(counts) for counts in curves) / 1e9
    return "\n".join(
        [
            f"set title {label(model + ': activation memory of a training step, one sequence, bf16')} offset 0,0.6",
            "set label 'planned bytes on the device besides weights, gradients and optimizer moments; the tests hold "
            "runs to the plan' at graph 0.5,1.04 center font ',10' textcolor '#6b7280'",
            "set lmargin 9; set rmargin 11; set tmargin 3.6; set bmargin 3.6",
            "set key top left Left reverse noenhanced font ',12' spacing 1.15 textcolor '#374151'",
            f"set logscale xy; set xrange [{LENGTHS[0] / 1.1}:{LENGTHS[-1] * 1.1}]",
            f"set yrange [{least / 1.5:.9g}:{most * 3.5:.9g}]",
            f"set xtics ({tics}); set xlabel 'tokens a sequence' textcolor '#374151' offset 0,0.3",
            "set ytics format '%g GB'",
            *blocks,
            f"plot {', '.join(elements)}",
        ]
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", required=True, help="the picture to write: .png, .svg or .pdf")
    parser.add_argument("--program", default="./train_llama", help="the trainer [./train_llama]")
    parser.add_argument("--model", default="llama3-8b", help="preset or Hugging Face folder [llama3-8b]")
    options = parser.parse_args()
    check_output(options.output, TERMINALS)
    gnuplot.require()
    curves = [
        [activation_bytes(options.program, options.model, length, flags) for length in LENGTHS]
        for _, flags, _ in MODES
    ]
    print_table(curves)
    gnuplot.draw(program_text(options.model, curves), options.output, 900, 520)
    print(f"wrote {options.output}")


if __name__ == "__main__":
    main()
