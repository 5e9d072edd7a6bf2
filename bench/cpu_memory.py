#!/usr/bin/env python3
"""Peak memory of a training step on the CPU over the sequence length: ways to train, here and in transformers.

    PYTHON bench/cpu_memory.py [-o out.png] [--lengths 512 1024 2048 4096 8192] [--layers 4] [--keep cpu_memory]

PYTHON has torch and transformers. Each point is the peak resident size of a process that takes one step with one sequence
in fp32 with AdamW, from the same folder: vanilla keeps every activation, checkpointing the layers' inputs; mini-sequences
are what ./train_llama does by itself. What both sides have to hold (weights, gradients, moments: 16 bytes a parameter)
is in the numbers and drawn as a line; Python and torch alone are in those of transformers. The picture needs gnuplot.
"""
import os
import sys
import tempfile

import bench_common as bench
import cpu_peer

sys.path.insert(0, str(bench.ROOT / "scripts"))
import gnuplot  # noqa: E402

OURS = {"vanilla": ["--recompute", "none", "--mlp-chunk", "0", "--head-chunk", "0"],
        "checkpointing": ["--mlp-chunk", "0", "--head-chunk", "0"], "mini-sequences": []}
CURVES = [  # whose, which, color
    ("transformers", "vanilla", gnuplot.COLORS[1]), ("transformers", "checkpointing", gnuplot.COLORS[3]),
    ("train_llama", "vanilla", gnuplot.COLORS[4]), ("train_llama", "checkpointing", gnuplot.COLORS[5]),
    ("train_llama", "mini-sequences", gnuplot.COLORS[0]),
]


def peak(folder, tokens, length, whose, which):
    if whose == "transformers":
        return cpu_peer.theirs(folder, length, 1, which == "checkpointing")["peak"]
    return bench.train(folder, tokens, length, 1, bench.threads(), *OURS[which])[0]["first_step_peak_bytes"]


def picture(path, rows, layers):
    lengths, state = [row["T"] for row in rows], 16 * bench.parameters(layers) / 1e9
    blocks = [gnuplot.block("$state", [(lengths[0], state), (lengths[-1], state)])]
    elements = ["$state with lines linecolor '#9ca3af' dashtype 2 title 'weights, gradients, moments'"]
    for i, (whose, which, color) in enumerate(CURVES):
        points = [(row["T"], row[f"{whose} {which}_mb"] / 1e3) for row in rows]
        blocks.append(gnuplot.block(f"$d{i}", points))
        elements.append(f"$d{i} with linespoints linecolor rgb '{color}' linewidth 2 pointtype 7 pointsize 0.9 title "
                        f"{gnuplot.label(f'{whose}, {which}')}")
        blocks.append(f"set label '{points[-1][1]:.1f} GB' at {points[-1][0]},{points[-1][1]:.4g} left offset 0.9,0 "
                      f"textcolor '{color}'")
    tics = ", ".join(f"'{length}' {length}" for length in lengths)
    gnuplot.draw("\n".join([
        f"set title '{layers} layers, C {bench.C}, V {bench.V}, fp32, one sequence: peak resident memory of a step'",
        "set lmargin 9; set rmargin 11; set bmargin 3.6", "set logscale x 2",
        "set key top left Left reverse noenhanced font ',12' spacing 1.15 textcolor '#374151'",
        f"set xrange [{lengths[0] / 1.1}:{lengths[-1] * 1.1}]; set yrange [0:*]", f"set xtics ({tics})",
        "set xlabel 'tokens a sequence' textcolor '#374151' offset 0,0.3; set ytics format '%g GB'",
        *blocks, f"plot {', '.join(elements)}"]), path, 900, 520)


def main():
    parser = bench.arguments(__doc__, [512, 1024, 2048, 4096, 8192], 1)
    parser.add_argument("-o", "--output", help="the picture to write: .png, .svg or .pdf")
    parser.set_defaults(layers=4)
    args = bench.parse(parser)
    if args.output:
        gnuplot.require()
    result = bench.Result("cpu_memory", layers=args.layers, C=bench.C, V=bench.V,
                          state_mb=round(16 * bench.parameters(args.layers) / 1e6))
    with tempfile.TemporaryDirectory() as folder:
        tokens = os.path.join(folder, "tokens.bin")
        bench.write_model(folder, args.layers)
        bench.write_tokens(tokens, 2 * max(args.lengths) + 1)
        for length in args.lengths:
            result.add(T=length, **{f"{whose} {which}_mb": round(peak(folder, tokens, length, whose, which) / 1e6)
                                    for whose, which, _ in CURVES})
    if args.output:
        picture(args.output, result.rows, args.layers)
    result.write(args.keep)


if __name__ == "__main__":
    main()
