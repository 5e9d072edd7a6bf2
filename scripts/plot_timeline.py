#!/usr/bin/env python3
"""Draws the memory of a training step over its moments, stacked by category, from the memory plan.

    scripts/plot_timeline.py -o out.png [--space device|host] [--program ./train_llama] -- FLAGS...

FLAGS are those of train_llama; nothing is trained, so any model and length will do:

    scripts/plot_timeline.py -o step.png -- --model llama3-8b --seq-len 64Ki --batch 1 --dtype bf16 --moments bf16

Every moment of the step (a layer's projection, its attention, its MLP, ...) is as wide as any other: the picture shows
what lives together, not how long it takes. Needs gnuplot (gnuplot-nox) and nothing else.
"""
import argparse

import gnuplot
from common import check_output, fail, read_plan
from gnuplot import COLORS, TERMINALS, label

# from the bottom up: what is always there, then what comes and goes
CATEGORIES = ["weights", "master weights", "moments", "gradients", "checkpoints", "kept activations", "activations",
              "mlp chunk", "head chunk", "data", "workspace"]
# a phase begins at the first moment of one of these names
PHASES = [("forward", ["embedding forward"]), ("head", ["head"]), ("backward", ["rerun", "again", "backward"]),
          ("update", ["update"]), ("generate", ["generate"])]


def phase_starts(names):
    """(index, phase) in the order of the step; an update of every layer belongs to the backward."""
    starts, at = [], 0
    for phase, beginnings in PHASES:
        for i in range(at, len(names)):
            if any(names[i].startswith(b) for b in beginnings) and (phase != "update" or names[i] == "update"):
                starts.append((i, phase))
                at = i
                break
    return starts


def layers(moments, space):
    """(category, bytes below it, bytes up to it) of every category that the space ever holds."""
    below = [0] * len(moments)
    for category in CATEGORIES:
        part = [moment[space].get(category, 0) for moment in moments]
        if any(part):
            above = [a + b for a, b in zip(below, part)]
            yield category, below, above
            below = above


def program_text(plan, space, title):
    moments = plan["moments"][1:]  # not the loading
    names = [moment["name"] for moment in moments]
    bands = list(layers(moments, space))
    if not bands:
        fail(f"the plan has nothing in {space} memory, expected some: choose the other --space.")
    top = max(bands[-1][2])
    unit, scale = ("GB", 1e9) if top >= 1e9 else ("MB", 1e6)
    blocks, elements = [], []
    for i, (category, below, above) in enumerate(bands):
        lines = []
        for x, (low, high) in enumerate(zip(below, above)):  # a moment is flat: from its left edge to its right
            lines += [f"{x} {low / scale:.9g} {high / scale:.9g}", f"{x + 1} {low / scale:.9g} {high / scale:.9g}"]
        blocks.append(f"$d{i} << EOD\n" + "\n".join(lines) + "\nEOD")
        elements.append(
            f"$d{i} using 1:2:3 with filledcurves fillcolor rgb '{COLORS[i % len(COLORS)]}' fillstyle solid 0.75 "
            f"noborder title {label(category)}"
        )
    peak = max(range(len(names)), key=lambda x: bands[-1][2][x])
    marks = []
    for nth, (i, phase) in enumerate(phase_starts(names)):  # two heights: the head is short
        marks.append(f"set arrow from {i}, graph 0 to {i}, graph 1 nohead front linecolor rgb '#374151' dashtype 2")
        marks.append(f"set label {label(phase)} at {i}, graph {1.025 + 0.05 * (nth % 2)} left front textcolor '#374151'")
    marks.append(
        f"set label {label(f'peak {top / scale:.1f} {unit}: {names[peak]}')} at {peak + 0.5},{top / scale:.9g} "
        f"{'left' if peak < len(names) / 2 else 'right'} offset 1,0.7 front textcolor '#111827'"
    )
    return "\n".join(
        [
            f"set title {label(title)} offset 0,2.4 font ',12'",
            "set tmargin 5.5; set lmargin 10; set rmargin 21; set bmargin 3",
            "set key at graph 1.02,0.98 left top Left reverse invert noenhanced font ',11' spacing 1.1 "
            "textcolor '#374151'",
            f"set xrange [0:{len(names)}]; set yrange [0:{top / scale * 1.12:.9g}]",
            "set xlabel 'moments of a training step' textcolor '#374151'; set format x ''",
            f"set ytics format '%g {unit}'",
            *blocks,
            *marks,
            f"plot {', '.join(elements)}",
        ]
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", required=True, help="the picture to write: .png, .svg or .pdf")
    parser.add_argument("--space", choices=["device", "host"], default="device", help="whose memory [device]")
    parser.add_argument("--program", default="./train_llama", help="the trainer [./train_llama]")
    parser.add_argument("flags", nargs="*", metavar="FLAGS", help="flags of train_llama, after --")
    options = parser.parse_args()
    check_output(options.output, TERMINALS)
    gnuplot.require()
    plan = read_plan(options.program, options.flags)
    flags = " ".join(options.flags) or "the demo"
    title = f"{options.space} memory: {flags if len(flags) < 85 else flags[:82] + '...'}"
    gnuplot.draw(program_text(plan, options.space, title), options.output, 1100, 560)
    print(f"wrote {options.output}")


if __name__ == "__main__":
    main()
