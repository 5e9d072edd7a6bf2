"""What the plotting scripts share: one look, and the way to gnuplot (gnuplot-nox), which draws."""
import os
import shutil
import subprocess

from common import fail, replace

COLORS = ["#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#0891b2", "#be185d", "#4d7c0f"]
TEXT, TITLE, AXIS, GRID, PAPER = "#374151", "#111827", "#9ca3af", "#e5e7eb", "#ffffff"

# The terminal by the output's ending; cairo's PDF is measured in inches, at 100 pixels each.
FONT = "font 'DejaVu Sans,13'"
TERMINALS = {
    ".png": lambda width, height: f"pngcairo size {width},{height} {FONT} background '{PAPER}' linewidth 1.4",
    ".svg": lambda width, height: f"svg size {width},{height} dynamic {FONT} background '{PAPER}' linewidth 1.4",
    ".pdf": lambda width, height: f"pdfcairo size {width / 100}in,{height / 100}in font 'DejaVu Sans,9' linewidth 1.2",
}


def require():
    """Ends the script where there is no gnuplot; called before anything takes time."""
    if not shutil.which("gnuplot"):
        fail("found no gnuplot. Install it (Debian, Ubuntu: apt-get install gnuplot-nox).")


def label(text):
    """A string in gnuplot's double quotes, without its markup."""
    for special in "\\\"":
        text = text.replace(special, "\\" + special)
    return '"' + "".join(c if c.isprintable() else " " for c in text) + '"'


def block(name, points):
    """A data block: name ($...) and its (x, y) lines."""
    text = "\n".join(f"{x:.12g} {y:.12g}" for x, y in points)
    return f"{name} << EOD\n{text}\nEOD"


def look(path, width, height):
    """The first lines of every program: a picture of that many pixels, pale axes and grid, dark text."""
    return (
        "set encoding utf8\n"
        f"set terminal {TERMINALS[os.path.splitext(path)[1].lower()](width, height)}\n"
        f"set output {label(path)}\n"
        f"set border 3 linecolor '{AXIS}'; set grid linecolor '{GRID}' linetype 1 linewidth 0.8\n"
        f"set tics nomirror out scale 0.5 textcolor '{TEXT}'; set xtics autofreq\n"
        f"set title font ',14' textcolor '{TITLE}' noenhanced offset 0,-0.4; unset key"
    )


def draw(program, output, width, height):
    """Runs the program (its text), and puts what it draws at output when it is complete."""

    def run(path):
        text = f"{look(path, width, height)}\n{program}\nunset output\n"
        result = subprocess.run(["gnuplot"], input=text, text=True, capture_output=True, check=False)
        if result.returncode != 0 or not os.path.exists(path):
            fail(f"gnuplot could not draw {output}:\n{result.stderr.strip()}", status=1)

    replace(output, run)
