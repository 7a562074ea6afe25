"""Output whose reader has gone."""

import os
import subprocess
import sys

PROGRAM = """
import sys
from lit_talr.cli.closed_pipe import outlive_readers
outlive_readers("nobody reads")
for _ in range(3):
    print("x" * 70_000, flush=True)
print("done", file=sys.stderr)
"""


def test_the_work_goes_on_and_it_is_said_once() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-c", PROGRAM], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "nobody reads\ndone\n")


def test_what_is_read_arrives_whole() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert (done.returncode, done.stderr, done.stdout) == (0, "done\n", ("x" * 70_000 + "\n") * 3)
