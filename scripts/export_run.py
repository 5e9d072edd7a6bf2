#!/usr/bin/env python3
"""Hands runs over to TensorBoard or to Weights & Biases, with their own libraries.

    scripts/export_run.py RUN [RUN...] --to tensorboard -o DIR     then: tensorboard --logdir DIR
    scripts/export_run.py RUN [RUN...] --to wandb -o DIR           then: wandb sync, as printed

A RUN is a run folder. Its log.jsonl becomes scalars under the step, its run.json the configuration. Values that are
null or not finite are left out. An export is always of the whole run and takes the place of an earlier one of the same
run in DIR, so it can be repeated as the run goes on, or after it was resumed from an earlier step.

TensorBoard: DIR/NAME, NAME as in the plots. The log has no times of day: those written are counted back from the log's
last change by the steps' durations. Needs tensorboardX. Weights & Biases: DIR/wandb/offline-run-*; nothing is sent. The
run's id is made of its first step, so that a later sync meets the same run. Needs wandb.
"""
import argparse
import contextlib
import glob
import hashlib
import importlib
import json
import math
import os
import shutil

import run_log
from common import fail

TAGS = {
    "loss": "loss/train",
    "val_loss": "loss/validation",
    "val_ppl": "loss/validation_perplexity",
    "loss_z": "loss/z",
    "lr": "optimizer/lr",
    "grad_norm": "optimizer/grad_norm",
    "norm_z": "optimizer/grad_norm_z",
    "outlier": "optimizer/outlier",
    "skipped": "optimizer/skipped",
    "tokens": "speed/tokens",
    "step_ms": "speed/step_ms",
    "tokens_per_s": "speed/tokens_per_s",
    "mfu": "speed/mfu",
    "device_bytes": "memory/device_bytes",
    "host_bytes": "memory/host_bytes",
}


def library(name):
    """The module of that name; ends the script with the way to it where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        fail(f"found no Python package {name} ({error}), expected one. Install it with: python3 -m pip install {name}")


def steps(log):
    """Yields (step, {tag: value}, seconds before the last step's end) for every line."""
    durations = [ms / 1e3 if math.isfinite(ms) else 0.0 for ms in log.columns["step_ms"]]
    left = math.fsum(durations)
    for i, step in enumerate(log.columns["step"]):
        left -= durations[i]
        values = {tag: log.columns[key][i] for key, tag in TAGS.items()}
        yield int(step), {tag: value for tag, value in values.items() if math.isfinite(value)}, left


def to_tensorboard(name, log, facts, output):
    tensorboard = library("tensorboardX")
    folder = os.path.join(output, name)
    for old in glob.glob(os.path.join(glob.escape(folder), "events.out.tfevents.*")):
        os.unlink(old)
    end = os.path.getmtime(log.path)
    # its thread writes when the queue is full or at the end
    with tensorboard.SummaryWriter(folder, max_queue=1000) as writer:
        if facts:
            writer.add_text("run.json", f"```json\n{json.dumps(facts, indent=2)}\n```", 0, walltime=end)
        for step, values, left in steps(log):
            for tag, value in values.items():
                writer.add_scalar(tag, value, step, walltime=end - left)
    print(f"{name}: {len(log)} lines to {folder}")


def to_wandb(name, log, facts, output, project):
    wandb = library("wandb")
    first = next((i for i, step in enumerate(log.columns["step"]) if step >= 1), 0)
    identity = repr([log.columns[key][first] for key in ("step", "loss", "grad_norm", "step_ms")])
    run_id = hashlib.sha256(identity.encode()).hexdigest()[:12]
    for old in glob.glob(os.path.join(glob.escape(output), "wandb", f"offline-run-*-{run_id}")):
        shutil.rmtree(old)
    settings = wandb.Settings(console="off", silent=True, x_disable_stats=True, x_disable_meta=True)
    run = wandb.init(
        project=project, name=name, id=run_id, dir=output, mode="offline", config=facts, settings=settings,
    )  # fmt: skip
    folder = os.path.dirname(run.dir)
    for step, values, _ in steps(log):
        run.log(values, step=step)
    run.finish()
    print(f"{name}: {len(log)} lines to {folder}\nTo send them: wandb sync {folder}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folder")
    parser.add_argument("--to", required=True, choices=["tensorboard", "wandb"])
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="folder to write into; made if needed")
    parser.add_argument("--project", default="train_llama", help="of Weights & Biases [train_llama]")
    options = parser.parse_args()
    library("tensorboardX" if options.to == "tensorboard" else "wandb")
    logs = [run_log.Log(run).read() for run in options.runs]
    with contextlib.suppress(FileExistsError):
        os.makedirs(options.output)
    if not os.path.isdir(options.output) or not os.access(options.output, os.W_OK):
        fail(f"{options.output}: found no folder that can be written, expected one. Name another with -o.")
    for name, log in zip(run_log.names(options.runs), logs):
        facts = run_log.facts(log.folder)
        if options.to == "tensorboard":
            to_tensorboard(name, log, facts, options.output)
        else:
            to_wandb(name, log, facts, options.output, options.project)


if __name__ == "__main__":
    main()
