#!/usr/bin/env python3
"""Draws the curves of one or more runs into a picture.

    scripts/plot_run.py RUN [RUN...] -o out.png [--follow]

A RUN is a run folder (or its log.jsonl). Loss and validation loss, gradient norm, learning rate, tokens a second, MFU
and memory are drawn over the steps; several runs lie over each other. Of many steps the curve is a running median, the
values themselves are pale. Steps that the log marks as outliers or as skipped are marked in red.
Needs gnuplot (gnuplot-nox) and nothing else.
"""
import argparse
import time

import gnuplot
import run_curves
from common import check_output, fail
from run_log import Log, names


def status(name, log):
    """The last step in a line."""
    columns = {key: column[-1] for key, column in log.columns.items()}
    text = f"{name}: step {columns['step']:.0f}, loss {columns['loss']:.4f}, norm {columns['grad_norm']:.3f}"
    evaluations = log.values("val_loss")
    return text + (f", validation {evaluations[-1]:.4f}" if evaluations else "")


def follow(runs, output, seconds, options):
    """Draws again whenever a log has grown, until Ctrl-C."""
    print(f"following; {output} is drawn again when a log grows; Ctrl-C ends this", flush=True)
    try:
        while True:
            changed = [log.poll() for _, log in runs]
            if any(changed) and any(len(log) for _, log in runs):
                run_curves.draw([run for run in runs if len(run[1])], output, **options)
                for (name, log), new in zip(runs, changed):
                    if new and len(log):
                        print(status(name, log), flush=True)
            time.sleep(seconds)
    except KeyboardInterrupt:
        print()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folder, or a log.jsonl")
    parser.add_argument("-o", "--output", required=True, help="the picture to write: .png, .svg or .pdf")
    parser.add_argument("--x", choices=["step", "tokens"], default="step", help="what the curves are drawn over [step]")
    parser.add_argument("--smooth", type=int, metavar="N", help="median of N steps; 1 = none [a fortieth of the run]")
    parser.add_argument("--loss-axis", choices=["auto", "log", "linear"], default="auto", help="[auto]")
    parser.add_argument("--follow", action="store_true", help="draw again when a log grows, until Ctrl-C")
    parser.add_argument("--every", type=float, default=2, metavar="S", help="seconds between looks, with --follow [2]")
    options = parser.parse_args()
    if options.smooth is not None and options.smooth < 1:
        fail(f"--smooth: found {options.smooth}, expected a number of steps from 1 on.")
    if not options.every > 0:
        fail(f"--every: found {options.every:g}, expected seconds above 0.")
    check_output(options.output, gnuplot.TERMINALS)
    gnuplot.require()
    runs = [(name, Log(run)) for name, run in zip(names(options.runs), options.runs)]
    how = {"x": options.x, "window": options.smooth, "loss_axis": options.loss_axis}
    if options.follow:
        follow(runs, options.output, options.every, how)
        return
    for _, log in runs:
        log.read()
    run_curves.draw(runs, options.output, **how)
    print(f"wrote {options.output}")


if __name__ == "__main__":
    main()
