"""Programs on a terminal of their own, and what a person sees there."""

import os
import pty
import re
import select
import subprocess
import sys


def on_a_terminal(words, columns, folder=None):
    """All that Python with these words writes on a terminal of so many columns."""
    own, other = pty.openpty()
    settings = {"COLUMNS": str(columns), "LINES": "24", "TERM": "xterm", "NO_COLOR": "1"}
    environment = {**os.environ, **settings, "PYTHONIOENCODING": "utf-8"}
    words = [sys.executable, *words]
    process = subprocess.Popen(words, stdout=other, stderr=other, env=environment, cwd=folder)  # noqa: S603
    os.close(other)
    found = b""
    while True:
        ready, _, _ = select.select([own], [], [], 200)
        try:
            part = os.read(own, 65536) if ready else b""
        except OSError:
            part = b""
        if not part:
            break
        found += part
    os.close(own)
    assert process.wait() == 0
    return found.decode()


def screen(written):
    """What stands on a terminal of many lines at the end."""
    lines, row, column = [""], 0, 0
    for sign in re.findall(r"\x1b\[[0-9;?]*[a-zA-Z]|[^\x1b]", written):
        if sign == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif sign == "\r":
            column = 0
        elif sign.startswith("\x1b"):
            number = int(re.sub(r"\D", "", sign) or 1)
            if sign.endswith("A"):
                row = max(0, row - number)
            elif sign.endswith("K"):
                lines[row] = ""
        else:
            lines[row] = lines[row][:column].ljust(column) + sign + lines[row][column + 1 :]
            column += 1
    return [line.rstrip() for line in lines]
