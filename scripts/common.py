"""What the scripts share: how they end, how they write a file, and how they ask the trainer for a plan."""
import json
import os
import subprocess
import sys


def fail(message, status=2):
    """Ends the script that runs, with its name before the message. 2: bad usage or input; 1: something failed."""
    print(f"{os.path.basename(sys.argv[0])}: {message}", file=sys.stderr)
    sys.exit(status)


def check_output(path, extensions):
    """Refuses an output that cannot be written, before anything takes time."""
    if os.path.splitext(path)[1].lower() not in extensions:
        fail(f"{path}: found this ending, expected {' or '.join(extensions)}. Name the output accordingly.")
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK):
        fail(f"{path}: found no folder {folder} that can be written, expected one. Make it or name another.")
    if os.path.isdir(path):
        fail(f"{path}: found a folder, expected the name of a file. Add the file's name.")


def replace(path, write):
    """Has write(name) make a file under another name, then puts it where path says: never half a file is there.

    The other name has the same ending.
    """
    folder, name = os.path.split(path)
    stem, ending = os.path.splitext(name)
    aside = os.path.join(folder, f".{stem}.{os.getpid()}.tmp{ending}")
    try:
        write(aside)
        os.replace(aside, path)
    except OSError as error:
        fail(f"{path}: cannot be written: {error.strerror}.", status=1)
    finally:
        if os.path.exists(aside):
            os.unlink(aside)


def read_plan(program, flags):
    """What `program --plan --json` prints for the flags."""
    command = [program, "--plan", "--json", *flags]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        fail(f"{program}: {error.strerror}; expected the trainer that `make` builds (or give --program).")
    if result.returncode != 0:
        fail(f"{' '.join(command)} ended with status {result.returncode}:\n{result.stderr.strip()}")
    return json.loads(result.stdout)
