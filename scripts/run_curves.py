"""The curves of runs as a gnuplot program: loss and validation, gradient norm, learning rate, speed, memory.

A run may have a million steps. What is drawn of a series are the least and the greatest value of each of a thousand
pieces, pale, and over them a running median.
"""
import math
import statistics

import gnuplot
from common import fail
from gnuplot import COLORS, TEXT, label

MARK = "#b91c1c"
PLACES = 1000  # of a curve: about a pixel each
LEFT, MIDDLE, RIGHT = (0.05, 0.325), (0.385, 0.65), (0.715, 0.985)
ROWS = (0.725, 0.955), (0.395, 0.625), (0.065, 0.295)  # bottom and top
LARGE = (LEFT[0], MIDDLE[1], ROWS[1][0], ROWS[0][1])
SMALL = [(*RIGHT, *ROWS[0]), (*RIGHT, *ROWS[1]), (*LEFT, *ROWS[2]), (*MIDDLE, *ROWS[2]), (*RIGHT, *ROWS[2])]


def pieces(points, count):
    """Cuts a list into at most that many pieces of one length."""
    stride = max(1, -(-len(points) // count))
    return [points[i : i + stride] for i in range(0, len(points), stride)]


def thin(points):
    """The least and the greatest point of each piece; few points are all kept."""
    if len(points) <= 2 * PLACES:
        return points
    result = []
    for piece in pieces(points, PLACES):
        ends = {min(piece, key=lambda point: point[1]), max(piece, key=lambda point: point[1])}
        result += sorted(ends)
    return result


def smooth(points, window):
    """Medians of that many neighbours, which spikes do not move, at about a thousand places.

    The window shrinks towards the start, where values change fast, and is cut off at the end. Of a wide window some
    hundred values are looked at.
    """
    if not points:
        return []
    half, stride = window // 2, max(1, len(points) // PLACES)
    result = []
    for i in [*range(0, len(points) - 1, stride), len(points) - 1]:
        reach = min(half, i)
        near = points[i - reach : i + reach + 1 : max(1, reach // 200)]
        result.append((points[i][0], statistics.median([value for _, value in near])))
    return result


def automatic_window(count):
    """Steps that a smoothed value is the median of: a fortieth of many, none of few."""
    return count // 40 | 1 if count > 100 else 1


def quantile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(share * len(values)))]


def short(text, most=44):
    return text if len(text) <= most else text[: most // 2 - 1] + "…" + text[-most // 2 :]


# ---- axes ----


def si(value, unit=""):
    """1500 -> 1.5k, 2e9 with unit B -> 2 GB."""
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor * 0.9999:
            return f"{value / factor:.4g}{' ' if unit else ''}{prefix}{unit}"
    return f"{value:.4g}{' ' + unit if unit else ''}"


def megabytes(value):
    return si(value, "B")


def percent(value):
    return f"{100 * value:.4g} %"


def plain(value):
    return f"{value:.4g}"


def tics(low, high, logarithmic=False):
    """Round values for the tics of an axis, about five."""
    if logarithmic and high / low > 3:
        marks = (1, 1.5, 2, 3, 4, 5, 7) if high / low < 10 else (1, 2, 5) if high / low < 1e3 else (1,)
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        decades = decades[:: max(1, len(decades) // 6)]
        return [mark * 10.0**e for e in decades for mark in marks if low <= mark * 10.0**e <= high]
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(mark * power for mark in (1, 2, 2.5, 5, 10) if mark * power >= rough * 0.999)
    return [i * step for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def axis(name, low, high, form, logarithmic=False):
    marks = ", ".join(f"{label(form(value).replace('%', '%%'))} {value:.12g}" for value in tics(low, high, logarithmic))
    scale = f"set logscale {name}" if logarithmic else f"unset logscale {name}"
    return f"{scale}; set {name}range [{low:.12g}:{high:.12g}]; set {name}tics ({marks})"


def padded(values, logarithmic=False):
    """Limits of an axis that shows all values with a little air."""
    low, high = min(values), max(values)
    if logarithmic:
        air = (high / low) ** 0.06
        return low / air, high * air
    air = 0.06 * (high - low) or 0.06 * abs(high) or 1.0
    return low - air, high + air


# ---- panels ----


class Curves:
    """runs: a list of (name, Log). x: "step" or "tokens". window: steps of the median; None = automatic, 1 = none.

    loss_axis: "log", "linear", or "auto", which takes logarithms where the loss falls to less than a third.
    """

    def __init__(self, runs, x="step", window=None, loss_axis="auto"):
        self.runs, self.x, self.window, self.loss_axis = runs, x, window, loss_axis
        self.blocks, self.panels, self.free = [], [], list(SMALL)
        self.last = max((point[0] for _, log in runs for point in log.series("step", x)), default=0) or 1

    def block(self, points):
        name = f"$d{len(self.blocks)}"
        self.blocks.append(gnuplot.block(name, points))
        return name

    def median(self, points):
        """A series as it is read: its running median."""
        return smooth(points, automatic_window(len(points)) if self.window is None else self.window)

    def lines(self, points, color, style=""):
        """The plot elements of a series: its median, and where that is another thing, the pale points themselves."""
        median = self.median(points)
        if len(points) == 1:
            return [f"{self.block(points)} with points linecolor rgb '{color}' pointtype 7 pointsize 1 notitle"]
        line = f"{self.block(median)} with lines linecolor rgb '{color}' linewidth 2 {style} notitle"
        if median == points:
            return [line]
        return [f"{self.block(thin(points))} with lines linecolor rgb '#bb{color[1:]}' linewidth 0.8 notitle", line]

    def marks(self, key, limits):
        """Plot elements for the steps that stand out: rings at their values, or at the edge that hides these."""
        outliers, skipped = [], []
        low, high = limits
        for _, log in self.runs:
            xs, ys = log.columns[self.x], log.columns[key]
            for i in log.marked("outlier"):
                if math.isfinite(xs[i]) and math.isfinite(ys[i]):
                    outliers.append((xs[i], min(max(ys[i], low), high)))
            skipped += [(xs[i], low) for i in log.marked("skipped") if math.isfinite(xs[i])]
        elements = []
        for points, point_type, title in ((outliers, 6, "outlier"), (skipped, 2, "skipped: not finite")):
            if points:
                block = self.block(thin(sorted(points)))
                style = f"linecolor rgb '{MARK}' pointtype {point_type} pointsize 1.3 linewidth 1.4"
                elements.append((f"{block} with points {style} notitle", f"keyentry with points {style} title '{title}'"))
        return elements

    def panel(self, place, title, elements, limits, form, logarithmic=False, extra=""):
        left, right, bottom, top = place
        x_axis = axis("x", 0, self.last, plain if self.last < 1e4 else si)
        self.panels.append(
            f"set lmargin at screen {left}; set rmargin at screen {right}\n"
            f"set bmargin at screen {bottom}; set tmargin at screen {top}\n"
            f"set title {label(title)}; set xlabel '{self.x}' textcolor '{TEXT}' offset 0,0.4\n"
            f"{x_axis}; {axis('y', *limits, form, logarithmic)}\n{extra}\n"
            f"plot {', '.join(elements)}\nunset key"
        )

    def loss(self):
        elements, keys, shown = [], [], []
        for i, (name, log) in enumerate(self.runs):
            color = COLORS[i % len(COLORS)]
            losses, evaluations = log.series("loss", self.x), log.series("val_loss", self.x)
            median = self.median(losses)
            if losses:
                # a spike must not flatten the rest, nor the first moments of a long run
                calm = [y for _, y in smooth(losses, 5 if len(losses) > 5 else 1)]
                shown += [quantile(calm, 0), quantile(calm, 0.99), quantile([y for _, y in losses], 0.002)]
                if len(losses) > 500:
                    shown.append(quantile([y for _, y in losses], 0.99))
                elements += self.lines(losses, color)
            if evaluations:
                elements.append(
                    f"{self.block(thin(evaluations))} with linespoints linecolor rgb '{color}' linewidth 1.2 dashtype 2 "
                    "pointtype 7 pointsize 0.8 notitle"
                )
                shown += [quantile([y for _, y in evaluations], share) for share in (0, 0.99)]
            keys += self.legend(name, color, median, evaluations)
        if not shown:
            return
        logarithmic = min(shown) > 0 and (
            self.loss_axis == "log" or (self.loss_axis == "auto" and max(shown) > 3 * min(shown))
        )
        limits = padded(shown, logarithmic)
        marks = self.marks("loss", limits)
        hidden = sum(not limits[0] <= y <= limits[1] for _, log in self.runs for y in log.values("loss"))
        title = "loss, nats a token" + (", logarithmic" if logarithmic else "")
        if hidden:
            title += f" ({hidden} of {sum(len(log.values('loss')) for _, log in self.runs)} steps are outside)"
        key = f"set key top right opaque noenhanced spacing 1.25 textcolor '{TEXT}'"
        elements = elements + [mark for mark, _ in marks] + keys + [entry for _, entry in marks]
        self.panel(LARGE, title, elements, limits, plain, logarithmic, key)

    def legend(self, name, color, median, evaluations):
        """One run: what its lines are. Several: a line a run."""
        line = f"linecolor rgb '{color}' linewidth"
        dashed = f"keyentry with linespoints {line} 1.2 dashtype 2 pointtype 7 pointsize 0.8 title"
        if len(self.runs) > 1:
            last, what = (evaluations[-1:], "validation") if evaluations else (median[-1:], "training")
            text = short(name) + (f": {what} {last[0][1]:.4g} at the end" if last else "")
            return [(f"keyentry with lines {line} 2 title " if not evaluations else dashed + " ") + label(text)]
        entries = []
        if median:
            count = len(self.runs[0][1].values("loss"))
            window = automatic_window(count) if self.window is None else self.window
            text = f"training, {median[-1][1]:.4g} at the end" + (f" (median of {window} steps)" if window > 1 else "")
            entries.append(f"keyentry with lines {line} 2 title {label(text)}")
        if evaluations:
            perplexity = math.exp(min(evaluations[-1][1], 700))
            text = f"validation, {evaluations[-1][1]:.4g} at the end (perplexity {perplexity:.4g})"
            entries.append(f"{dashed} {label(text)}")
        return entries

    def small(self, title, keys, form, share=1.0, marked=False, from_zero=True):
        """A panel of one or several keys, (key, style, legend); nothing when no run has them."""
        elements, entries, shown = [], [], []
        for key, style, legend in keys:
            series = [log.series(key, self.x) for _, log in self.runs]
            for i, points in enumerate(series):
                if points:
                    elements += self.lines(points, COLORS[i % len(COLORS)], style)
                    shown.append(quantile([y for _, y in points], share))
                    shown += [y for _, y in self.median(points)]
            if legend and any(series):
                entries.append(f"keyentry with lines linecolor rgb '{TEXT}' linewidth 2 {style} title {label(legend)}")
        if not elements:
            return
        limits = padded([0.0] * from_zero + shown)
        limits = (0.0, limits[1]) if from_zero and min(shown) >= 0 else limits
        marks = [mark for mark, _ in self.marks(keys[0][0], limits)] if marked else []
        place = "bottom right" if entries else ""
        key = f"set key {place} opaque noenhanced spacing 1.2 textcolor '{TEXT}'" if entries else ""
        self.panel(self.free.pop(0), title, elements + marks + entries, limits, form, extra=key)

    def program(self):
        self.loss()
        self.small("gradient norm, before clipping", [("grad_norm", "", "")], plain, share=0.98, marked=True)
        self.small("learning rate", [("lr", "", "")], plain)
        self.small("tokens a second", [("tokens_per_s", "", "")], si)
        self.small("MFU", [("mfu", "", "")], percent)
        self.small(
            "memory",
            [("device_bytes", "", "device, planned"), ("host_bytes", "dashtype 2", "host, highest resident")],
            megabytes,
        )
        if not self.panels:
            fail("found no number in these logs that can be drawn, expected a loss; see docs/formats.md for the keys.")
        return "\n".join([*self.blocks, "set multiplot", *self.panels, "unset multiplot"])


def draw(runs, output, size=(1500, 1050), **options):
    """Draws runs, a list of (name, Log), into a picture of that many pixels; options as those of Curves."""
    gnuplot.draw(Curves(runs, **options).program(), output, *size)
