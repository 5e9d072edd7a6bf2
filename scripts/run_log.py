"""Reads a run folder: log.jsonl, run.json and the saved states (docs/formats.md)."""
import bisect
import json
import math
import os
from array import array

from common import fail

# The numbers of a line; "outlier" and "skipped" are 1 where they are true. What is not there, null or not finite is NAN.
KEYS = (
    "step", "loss", "val_loss", "val_ppl", "lr", "grad_norm", "tokens", "step_ms", "tokens_per_s", "mfu",
    "device_bytes", "host_bytes", "loss_z", "norm_z", "outlier", "skipped",
)  # fmt: skip
BLOCK = 1 << 22  # bytes that are parsed at a time


def number(value):
    """A JSON value as a float; NAN for what is no number."""
    return float(value) if isinstance(value, (int, float)) else math.nan


def parse(lines):
    """The lines as JSON values, or None when one of them is none. Far quicker than one by one."""
    try:
        rows = json.loads(b"[" + b",".join(lines) + b"]")
    except ValueError:
        return None
    return rows if len(rows) == len(lines) and all(isinstance(row, dict) and "step" in row for row in rows) else None


class Log:
    """A run's log.jsonl in columns (key -> array of doubles), which can be read on as it grows."""

    def __init__(self, run):
        self.path = os.path.join(run, "log.jsonl") if os.path.isdir(run) else run
        self.folder = os.path.dirname(os.path.abspath(self.path))
        self._reset(None)

    def _reset(self, inode):
        self.columns = {key: array("d") for key in KEYS}
        self._inode, self._offset, self._lines = inode, 0, 0

    def __len__(self):
        return len(self.columns["step"])

    def poll(self):
        """Reads what was added since the last call, or everything when the log was replaced or cut; True if any.

        A last line without its end is left for the next call, unless it is whole all the same.
        """
        try:
            with open(self.path, "rb") as file:
                status = os.fstat(file.fileno())
                changed = status.st_ino != self._inode or status.st_size < self._offset
                if changed:
                    self._reset(status.st_ino)
                file.seek(self._offset)
                while lines := file.readlines(BLOCK):
                    if not lines[-1].endswith(b"\n") and not parse(lines[-1:]):
                        lines.pop()
                    changed = changed or bool(lines)
                    self._take(lines)
                    if not lines:
                        break
        except OSError as error:
            fail(f"{self.path}: {error.strerror}; expected a run folder that `./train_llama --out DIR` made.")
        return changed

    def _take(self, lines):
        rows = parse([line for line in lines if not line.isspace()])
        if rows is None:
            self._refuse(lines)
        steps = self.columns["step"]
        for row in rows:
            step = number(row["step"])
            if not math.isfinite(step):
                self._refuse(lines)
            if steps and step <= steps[-1]:  # an earlier step again: what is later is of a past that was given up
                place = bisect.bisect_left(steps, step)
                for column in self.columns.values():
                    del column[place:]
            for key, column in self.columns.items():
                column.append(number(row.get(key)))
        self._offset += sum(map(len, lines))
        self._lines += len(lines)

    def _refuse(self, lines):
        for count, line in enumerate(lines, self._lines + 1):
            rows = parse([line])
            if not line.isspace() and not (rows and math.isfinite(number(rows[0]["step"]))):
                text = line[:60].decode(errors="replace").rstrip()
                fail(
                    f'{self.path}, line {count}: found {text!r}, expected a JSON object with a "step".\n'
                    "Is this the log.jsonl of a run? A line that a crash damaged can be deleted."
                )

    def read(self):
        """Reads the log; ends the script when it has no steps. Returns the Log."""
        self.poll()
        if not len(self):
            fail(
                f"{self.path}: found no steps, expected a line a step; the run has not logged any yet.\n"
                "Wait for its first step (plot_run.py --follow does)."
            )
        return self

    def series(self, key, x="step"):
        """The points (x, value) where both are finite. x: "step" or "tokens", which are 0 at step 0."""
        xs = self.columns[x]
        if x == "tokens" and len(self) and self.columns["step"][0] == 0 and not math.isfinite(xs[0]):
            xs = array("d", [0.0]) + xs[1:]
        return [point for point in zip(xs, self.columns[key]) if math.isfinite(point[0]) and math.isfinite(point[1])]

    def values(self, key):
        """The finite values of a key."""
        return [value for value in self.columns[key] if math.isfinite(value)]

    def marked(self, key):
        """The places of the lines where "outlier" or "skipped" is true."""
        return [i for i, value in enumerate(self.columns[key]) if value == 1]


def names(runs):
    """A name for each run (as the user gave it): the last parts of its path, as many as tell it from the others."""
    paths = [os.path.abspath(run.removesuffix("log.jsonl") or ".").split(os.sep) for run in runs]
    parts = 1
    while parts < max(map(len, paths)) and len({tuple(path[-parts:]) for path in paths}) < len(paths):
        parts += 1
    return ["/".join(path[-parts:]) for path in paths]


def facts(folder):
    """The run.json of a run folder as a dictionary; an empty one where there is none."""
    path = os.path.join(folder, "run.json")
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        fail(f"{path}: found what cannot be read ({error}), expected the JSON that train_llama writes there.")
    if not isinstance(content, dict):
        fail(f"{path}: found a JSON value of another kind, expected an object. Is this the folder of a run?")
    return content


def saved_states(folder):
    """The saved states of a run folder, by step: (name, step, bytes, complete)."""
    states = []
    with os.scandir(folder) as entries:
        for entry in entries:
            digits = entry.name.removeprefix("step-")
            if entry.is_dir() and digits != entry.name and digits.isdigit():
                files = [file for file in os.scandir(entry.path) if file.is_file()]
                size = sum(file.stat().st_size for file in files)
                states.append((entry.name, int(digits), size, any(file.name == "DONE" for file in files)))
    return sorted(states, key=lambda state: state[1])
