#!/usr/bin/env python3
"""Draws the training curves of one or more runs into a PNG.

    scripts/plot_run.py RUN [RUN...] -o out.png

A RUN is a run folder (or its log.jsonl). Loss and validation loss, gradient norm, learning rate and speed are
drawn over the steps; several runs lie over each other. Needs gnuplot (gnuplot-nox) and nothing else.
"""
import argparse
import json
import math
import os
import statistics

import gnuplot
from gnuplot import COLORS, fail, label


def read_log(run):
    """The lines of a run's log.jsonl as dictionaries; a last line that was cut off is left out."""
    path = os.path.join(run, "log.jsonl") if os.path.isdir(run) else run
    try:
        with open(path, encoding="utf-8") as file:
            lines = file.read().splitlines()
    except OSError as error:
        fail(f"{path}: {error.strerror}; expected a run folder that `./train_llama --out DIR` made.")
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            row = None
        if isinstance(row, dict) and "step" in row:
            rows.append(row)
        elif number < len(lines):
            fail(f"{path}, line {number}: found {line[:60]!r}, expected a JSON object with a \"step\".")
    if not rows:
        fail(f"{path}: found no steps; the run has not logged any.")
    return rows


def series(rows, key):
    """(step, value) of the rows that have a finite value under the key."""
    return [(row["step"], row[key]) for row in rows if isinstance(row.get(key), (int, float))]


def smooth(points):
    """Medians over a fortieth of the run, which spikes do not move, at about a thousand places.

    The window shrinks towards the start, where values change fast, and is cut off at the end.
    """
    reach, stride = len(points) // 80, max(1, len(points) // 1000)
    result = []
    for i in [*range(0, len(points) - 1, stride), len(points) - 1]:
        near = [value for _, value in points[i - min(reach, i) : i + min(reach, i) + 1]]
        result.append((points[i][0], statistics.median(near)))
    return result


def is_dense(points):
    return len(points) > 100


def quantile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(share * len(values)))]


def padded_range(values, from_zero=False):
    """Limits of an axis that shows all values with a little air."""
    low, high = (0.0 if from_zero else min(values)), max(values)
    air = 0.06 * (high - low) or 0.06 * abs(high) or 1.0
    return (low if from_zero else low - air), high + air


class Script:
    """A gnuplot program: data blocks first, then the panels that draw them."""

    def __init__(self):
        self.data, self.panels = [], []

    def block(self, points):
        name = f"$d{len(self.data)}"
        self.data.append(gnuplot.block(name, points))
        return name

    def panel(self, place, title, curves, limits, extra=""):
        """place: left, right, bottom, top as shares of the canvas; curves: gnuplot plot elements."""
        left, right, bottom, top = place
        self.panels.append(
            f"set lmargin at screen {left}; set rmargin at screen {right}\n"
            f"set bmargin at screen {bottom}; set tmargin at screen {top}\n"
            f"set title {label(title)}\n"
            f"set yrange [{limits[0]:.9g}:{limits[1]:.9g}]\n{extra}\n"
            f"plot {', '.join(curves)}\n"
            "unset key; set format y '%g'"
        )

    def lines(self, points, color, title):
        """Curves of one series: a line, or a smoothed line over the pale points' own when they are many."""
        line = f"with lines linecolor rgb '{color}' linewidth 2 "
        named = "notitle" if title is None else "title " + label(title)
        if not is_dense(points):
            return [f"{self.block(points)} {line} {named}"]
        pale = f"{self.block(points)} with lines linecolor rgb '#bb{color[1:]}' linewidth 0.8 notitle"
        return [pale, f"{self.block(smooth(points))} {line} {named}"]

    def text(self, output, last_step):
        return "\n".join(
            [
                gnuplot.look(output, 1500, 1000),
                f"set xrange [0:{max(1, last_step)}]",
                *self.data,
                "set multiplot",
                *self.panels,
                "unset multiplot",
            ]
        )


def draw(runs, output):
    """runs: a list of (name, rows)."""
    script = Script()
    last_step = max(row["step"] for _, rows in runs for row in rows)

    loss_curves, shown = [], []
    for i, (name, rows) in enumerate(runs):
        color = COLORS[i % len(COLORS)]
        losses, evaluations = series(rows, "loss"), series(rows, "val_loss")
        if losses:
            title = f"{name}: training" + (", smoothed" if is_dense(losses) else "")
            loss_curves += script.lines(losses, color, title)
            # a spike must not flatten the rest
            shown += [min(y for _, y in losses), max(losses[0][1], quantile([y for _, y in losses], 0.99))]
        if evaluations:
            block = script.block(evaluations)
            perplexity = math.exp(min(evaluations[-1][1], 700))
            title = f"{name}: validation, {evaluations[-1][1]:.3f} at the end (perplexity {perplexity:.4g})"
            loss_curves.append(
                f"{block} with linespoints linecolor rgb '{color}' linewidth 1.2 dashtype 2 pointtype 7 "
                f"pointsize 0.9 title {label(title)}"
            )
            shown += [y for _, y in evaluations]
    if not loss_curves:
        fail("found no loss in these logs, expected \"loss\" or \"val_loss\" in their lines.")
    script.panel(
        (0.06, 0.975, 0.46, 0.94), "loss", loss_curves, padded_range(shown),
        "set key top right noenhanced spacing 1.25 textcolor '#374151'",
    )

    places = [(0.06, 0.325), (0.395, 0.65), (0.72, 0.975)]
    panels = [
        ("grad_norm", "gradient norm", "%g", 0.98),
        ("lr", "learning rate", "%g", 1),
        ("tokens_per_s", "tokens / s", "%.1s%c", 1),
    ]
    for (left, right), (key, title, axis_format, share) in zip(places, panels):
        curves, shown = [], []
        for i, (_, rows) in enumerate(runs):
            points = series(rows, key)
            if points:
                curves += script.lines(points, COLORS[i % len(COLORS)], None)
                shown += [y for _, y in points]
        if curves:
            limits = padded_range([0.0, quantile(shown, share)], from_zero=True)
            extra = f"set format y '{axis_format}'; set xlabel 'step' textcolor '#374151' offset 0,0.3"
            script.panel((left, right, 0.08, 0.36), title, curves, limits, extra)

    gnuplot.draw(script.text(output, last_step), output)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folder, or a log.jsonl")
    parser.add_argument("-o", "--output", required=True, help="the PNG to write")
    options = parser.parse_args()
    gnuplot.require()
    names = [os.path.basename(os.path.abspath(run.removesuffix("log.jsonl"))) for run in options.runs]
    if len(set(names)) < len(names):  # runs of one name in several folders
        names = options.runs
    draw([(name, read_log(run)) for name, run in zip(names, options.runs)], options.output)
    print(f"wrote {options.output}")


if __name__ == "__main__":
    main()
