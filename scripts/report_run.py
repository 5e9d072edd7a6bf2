#!/usr/bin/env python3
"""Writes a report of a run: one HTML file with everything in it, for light and dark screens and for paper.

    scripts/report_run.py RUN -o report.html

Facts and flags are those of run.json, curves and numbers those of log.jsonl (docs/formats.md); the curves are as
scripts/plot_run.py draws them. Needs gnuplot (gnuplot-nox) and nothing else.
"""
import argparse
import html
import json
import os
import re
import shlex
import statistics
import tempfile

import gnuplot
import run_curves
import run_log
from common import check_output, replace
from run_curves import percent, si

MOST_ROWS = 60  # of a table; a longer one is thinned out

# Colours of the curves' picture that follow the page, by STYLE's names.
PAGE_COLORS = {
    gnuplot.TEXT: "soft", gnuplot.TITLE: "ink", gnuplot.AXIS: "axis", gnuplot.GRID: "line", gnuplot.PAPER: "paper",
    gnuplot.COLORS[0]: "curve", run_curves.MARK: "bad",
}  # fmt: skip

STYLE = """
:root { --paper: #ffffff; --ink: #111827; --soft: #4b5563; --line: #e5e7eb; --axis: #9ca3af; --panel: #f9fafb;
  --bad: #b91c1c; --curve: #2563eb; color-scheme: light dark; }
@media (prefers-color-scheme: dark) { :root { --paper: #111827; --ink: #f3f4f6; --soft: #c3c9d2; --line: #303a4a;
  --axis: #6b7280; --panel: #1b2433; --bad: #f87171; --curve: #7aaeff; } }
body { margin: 0 auto; max-width: 1180px; padding: 2rem 1.5rem 4rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.6rem; margin: 0; overflow-wrap: anywhere; } h2 { font-size: 1.1rem; margin: 2.2rem 0 0.6rem; }
p { margin: 0.3rem 0; color: var(--soft); }
dl.numbers { display: grid; grid-template-columns: repeat(auto-fit, minmax(200px, 1fr)); gap: 0.7rem; margin: 1.4rem 0; }
dl.numbers div { background: var(--panel); border: 1px solid var(--line); border-radius: 6px; padding: 0.6rem 0.9rem; }
dl.numbers dt { color: var(--soft); font-size: 0.8rem; } dl.numbers dd { margin: 0; font-size: 1.3rem; }
dl.numbers dd small { font-size: 0.8rem; color: var(--soft); display: block; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 0.25rem 0.9rem 0.25rem 0; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; font-size: 0.85rem; } .text { text-align: left; overflow-wrap: anywhere; }
table.facts th { font-weight: 400; } tr.given td { font-weight: 600; } .bad { color: var(--bad); }
.wide { overflow-x: auto; }
code { font: 0.85rem/1.5 ui-monospace, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
summary { cursor: pointer; color: var(--soft); } svg { width: 100%; height: auto; display: block; }
"""


def escape(value):
    return html.escape(str(value))


def table(head, rows, text_columns=(), row_class=lambda row: ""):
    def cells(tag, row):
        kinds = [' class="text"' if i in text_columns else "" for i in range(len(row))]
        return "".join(f"<{tag}{kind}>{escape(cell)}</{tag}>" for kind, cell in zip(kinds, row))

    body = "\n".join(f"<tr{row_class(row)}>{cells('td', row)}</tr>" for row in rows)
    return f'<div class="wide"><table>\n<tr>{cells("th", head)}</tr>\n{body}\n</table></div>'


def thinned(rows):
    """At most MOST_ROWS of the rows, evenly, the last one among them, and a sentence about it."""
    if len(rows) <= MOST_ROWS:
        return rows, ""
    chosen = [rows[round(i * (len(rows) - 1) / (MOST_ROWS - 1))] for i in range(MOST_ROWS)]
    return chosen, f"<p>{MOST_ROWS} of {len(rows)}, evenly chosen; all are in log.jsonl.</p>"


def duration(seconds):
    """As 12.3 s, 5 min 03 s, 2 h 05 min or 3 d 04 h."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    for unit, size, part, part_size in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if seconds >= size:
            return f"{int(seconds // size)} {unit} {int(seconds % size // part_size):02} {part}"


def count(value):
    """A whole number, in full while it is short."""
    return f"{value:,.0f}" if value < 1e6 else si(value)


def shown(value):
    """A logged value; a dash where there is none."""
    return "–" if value != value else f"{value:.6g}"


# ---- parts ----


def page_colors(tag):
    """A tag of gnuplot's SVG (a match) with the page's colours for gnuplot's."""
    style = ""

    def take(attribute):
        nonlocal style
        name, _, color = attribute.groups()
        digits = re.findall(r"\d+", color) if color.startswith("rgb") else []
        variable = PAGE_COLORS.get(f"#{''.join(f'{int(digit):02x}' for digit in digits)}" if digits else color.lower())
        if not variable:
            return attribute.group(0)
        style += f"{name}:var(--{variable});"
        return ""

    text = re.sub(r"""(?<=\s)(fill|stroke|color)\s*=\s*(["'])(rgb\([^)]*\)|#[0-9A-Fa-f]{6})\2""", take, tag.group(0))
    return re.sub(r"(/?>)$", rf' style="{style}"\1', text) if style else text


def curves(name, log):
    """The picture as SVG inside the page; its colours by the page's."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "curves.svg")
        run_curves.draw([(name, log)], path, size=(1180, 980))
        with open(path, encoding="utf-8") as file:
            picture = file.read()
    picture = picture[picture.index("<svg") :]
    picture = re.sub(r"<script.*?</script>", "", picture, flags=re.DOTALL)
    return re.sub(r"<[a-z][^>]*>", page_colors, picture)


def header(name, log, facts):
    model, options = facts.get("model", {}), facts.get("options", {})
    rows = []
    if options:
        text = str(options.get("model"))
        if model:
            sizes = ", ".join(f"{key} {model[key]}" for key in ("L", "C", "NH", "NKV", "HS", "FF", "V") if key in model)
            text += f": {model.get('family')}, {si(model.get('parameters', 0))} parameters ({sizes})"
        rows.append(("model", text))
        data = options.get("train") or "text made by the demo"
        rows.append(("training data", data + (f", {si(facts['data_tokens'])} tokens" if "data_tokens" in facts else "")))
        if options.get("val"):
            rows.append(("validation data", options["val"]))
        batch = [options.get(key) for key in ("grad-accum", "batch", "seq-len")]
        if all(isinstance(value, int) for value in batch):
            a, b, t = batch
            rows.append(("a step", f"{count(a * b * t)} tokens: {a} × {b} sequences of {t}"))
    rows += [(key, facts[key]) for key in ("device", "host", "version") if facts.get(key)]
    if facts.get("resumed_from_step"):
        rows.append(("resumed", f"after step {facts['resumed_from_step']}; the flags are those given then"))
    body = "\n".join(f'<tr><th class="text">{escape(k)}</th><td class="text">{escape(v)}</td></tr>' for k, v in rows)
    steps = options.get("steps")
    progress = f"{log.columns['step'][-1]:.0f}" + (f" of {steps}" if steps else "")
    note = "" if facts else "<p>There is no run.json beside this log: what was run is not known.</p>"
    facts_table = f'<table class="facts">\n{body}\n</table>' if rows else ""
    return f"<h1>{escape(name)}</h1>\n<p>Report of a training run after step {progress}.</p>\n{note}{facts_table}"


def numbers(log):
    """The key numbers: (title, value, what stands below it)."""
    tiles = []
    evaluations = log.series("val_loss")
    losses = log.series("loss")
    if evaluations:
        best = min(evaluations, key=lambda point: point[1])
        tiles.append(("validation loss, last", f"{evaluations[-1][1]:.4f}", f"step {evaluations[-1][0]:.0f}"))
        tiles.append(("validation loss, best", f"{best[1]:.4f}", f"step {best[0]:.0f}"))
        tiles.append(("validation loss, first", f"{evaluations[0][1]:.4f}", f"step {evaluations[0][0]:.0f}"))
    if losses:
        tiles.append(("training loss, last", f"{losses[-1][1]:.4f}", f"first {losses[0][1]:.4f}"))
    if log.values("tokens"):
        tiles.append(("tokens trained on", count(log.values("tokens")[-1]), f"{len(losses)} steps"))
    if log.values("step_ms"):
        total = sum(log.values("step_ms")) / 1e3
        tiles.append(("time of all steps", duration(total), "without evaluating and saving"))
    if log.values("tokens_per_s"):
        tiles.append(("tokens a second", count(statistics.median(log.values("tokens_per_s"))), "median"))
    if log.values("mfu"):
        tiles.append(("MFU", percent(round(statistics.median(log.values("mfu")), 4)), "median"))
    for key, title in (("device_bytes", "device memory"), ("host_bytes", "host memory")):
        if log.values(key):
            tiles.append((title, si(max(log.values(key)), "B"), "planned" if key == "device_bytes" else "highest"))
    body = "\n".join(
        f"<div><dt>{escape(title)}</dt><dd>{escape(value)}<small>{escape(below)}</small></dd></div>"
        for title, value, below in tiles
    )
    return f'<dl class="numbers">\n{body}\n</dl>'


def evaluations(log):
    columns = log.columns
    rows = [
        (f"{columns['step'][i]:.0f}", count(columns["tokens"][i]) if columns["tokens"][i] == columns["tokens"][i] else "–",
         shown(columns["loss"][i]), shown(loss), shown(columns["val_ppl"][i]))
        for i, loss in enumerate(columns["val_loss"])
        if loss == loss
    ]  # fmt: skip
    if not rows:
        return "<p>None.</p>"
    rows, note = thinned(rows)
    return table(("step", "tokens", "loss of the step", "validation loss", "perplexity"), rows) + note


def standing_out(log):
    columns = log.columns
    places = sorted({*log.marked("outlier"), *log.marked("skipped")})
    if not places:
        return "<p>None: no step was marked as an outlier, none was skipped.</p>"
    rows = [
        (f"{columns['step'][i]:.0f}", "skipped: not finite" if columns["skipped"][i] == 1 else "outlier",
         *(shown(columns[key][i]) for key in ("loss", "loss_z", "grad_norm", "norm_z")))
        for i in places
    ]  # fmt: skip
    rows, note = thinned(rows)
    counts = f"<p>Outliers: {len(log.marked('outlier'))}; skipped steps: {len(log.marked('skipped'))}.</p>"
    return counts + table(("step", "", "loss", "z", "gradient norm", "z"), rows, text_columns=(1,)) + note


def states(folder):
    rows = [
        (name, f"{step}", si(size, "B"), "complete" if complete else "not complete")
        for name, step, size, complete in run_log.saved_states(folder)
    ]
    if not rows:
        return "<p>None.</p>"
    return table(
        ("folder", "step", "size", ""), rows, text_columns=(0, 3),
        row_class=lambda row: ' class="bad"' if row[3] == "not complete" else "",
    )  # fmt: skip


def flags(facts):
    """The command, what it gave, and under a fold every flag."""
    command, options = facts.get("command"), facts.get("options")
    if not isinstance(command, list) or not isinstance(options, dict):
        return "<p>Not known.</p>"
    given = {word[2:].partition("=")[0] for word in map(str, command[1:]) if word.startswith("--")}

    rows = [(f"--{name}", "–" if value is None else json.dumps(value).strip('"')) for name, value in options.items()]
    return (
        f"<p><code>{escape(shlex.join(map(str, command)))}</code></p>\n<details><summary>Every flag's value; those "
        "given in the command are bold</summary>\n"
        + table(
            ("flag", "value"), rows, text_columns=(0, 1),
            row_class=lambda row: ' class="given"' if row[0][2:] in given else "",
        )
        + "\n</details>"
    )  # fmt: skip


def page(name, log, facts):
    sections = [
        ("Curves", curves(name, log)),
        ("Evaluations", evaluations(log)),
        ("Steps that stand out", standing_out(log)),
        ("Saved states", states(log.folder)),
        ("Command and flags", flags(facts)),
    ]
    body = "\n".join(f"<h2>{title}</h2>\n{content}" for title, content in sections)
    return (
        '<!DOCTYPE html>\n<html lang="en" xmlns="http://www.w3.org/1999/xhtml">\n<head>\n<meta charset="utf-8"/>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>\n'
        f"<title>{escape(name)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"{header(name, log, facts)}\n{numbers(log)}\n{body}\n</body>\n</html>\n"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN", help="run folder")
    parser.add_argument("-o", "--output", required=True, help="the report to write: .html")
    options = parser.parse_args()
    check_output(options.output, [".html"])
    gnuplot.require()
    log = run_log.Log(options.run).read()
    text = page(run_log.names([options.run])[0], log, run_log.facts(log.folder))

    def write(path):
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)

    replace(options.output, write)
    print(f"wrote {options.output}")


if __name__ == "__main__":
    main()
