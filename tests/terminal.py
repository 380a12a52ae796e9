"""A command on a terminal: what it writes there, and what is to be seen of that in the end."""

import fcntl
import os
import pty
import struct
import subprocess
import termios

import pyte

COLUMNS, LINES = 80, 40


def run_on_terminal(command, kind="xterm", stdout=None):
    """Runs it to its end; returns the bytes that it has written to its terminal, and to stdout where that is a pipe."""
    main, other = pty.openpty()
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    process = subprocess.Popen(
        [str(word) for word in command],
        stdin=other,
        stdout=other if stdout is None else stdout,
        stderr=other,
        env={**os.environ, "TERM": kind},
        start_new_session=True,
    )
    os.close(other)
    written = b""
    try:
        while part := os.read(main, 65536):
            written += part
    except OSError:  # its other end is closed
        pass
    os.close(main)
    results, _ = process.communicate()
    assert process.returncode == 0, written
    return written, results


def seen(written):
    """The lines that are to be seen after these bytes."""
    screen = pyte.Screen(COLUMNS, LINES)
    pyte.ByteStream(screen).feed(written)
    return [line.rstrip() for line in screen.display if line.strip()]
