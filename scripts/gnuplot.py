"""What the plotting scripts share: one look, and the way to gnuplot (gnuplot-nox), which draws."""
import os
import shutil
import subprocess
import sys

COLORS = ["#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#0891b2", "#be185d", "#4d7c0f"]


def fail(message):
    """Ends the script that runs, with its name before the message."""
    sys.exit(f"{os.path.basename(sys.argv[0])}: {message}")


def require():
    """Ends the script where there is no gnuplot; called before anything takes time."""
    if not shutil.which("gnuplot"):
        fail("found no gnuplot. Install it (Debian, Ubuntu: apt-get install gnuplot-nox).")


def label(text):
    """A string in gnuplot's double quotes, without its markup."""
    for special in "\\\"":
        text = text.replace(special, "\\" + special)
    return '"' + text.replace("\n", " ") + '"'


def block(name, points):
    """A data block: name ($...) and its (x, y) lines."""
    text = "\n".join(f"{x} {y:.9g}" for x, y in points)
    return f"{name} << EOD\n{text}\nEOD"


def look(output, width, height):
    """The first lines of every program: a PNG of that many pixels, pale axes and grid, dark text."""
    return (
        "set encoding utf8\n"
        f"set terminal pngcairo size {width},{height} font 'DejaVu Sans,13' background '#ffffff' linewidth 1.4\n"
        f"set output {label(output)}\n"
        "set border 3 linecolor '#9ca3af'; set grid linecolor '#e5e7eb' linetype 1 linewidth 0.8\n"
        "set tics nomirror out scale 0.5 textcolor '#374151'; set xtics autofreq\n"
        "set title font ',14' textcolor '#111827' noenhanced offset 0,-0.4; unset key"
    )


def draw(program, output):
    """Runs the program (its text), which writes the output."""
    result = subprocess.run(["gnuplot"], input=program, text=True, capture_output=True, check=False)
    if result.returncode != 0 or not os.path.exists(output):
        fail(f"gnuplot could not draw {output}:\n{result.stderr.strip()}")
