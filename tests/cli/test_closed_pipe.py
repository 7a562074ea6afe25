"""Output whose reader has gone."""

import os
import subprocess
import sys

import pytest

from lit_talr.__main__ import does_work

PROGRAM = """
import sys
from lit_talr.cli.closed_pipe import outlive_readers
outlive_readers("nobody reads")
for _ in range(3):
    print("x" * 70_000, flush=True)
print("done", file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("words", "said"), [(["-c", PROGRAM], "nobody reads\ndone\n"), (["-m", "lit_talr"], "")], ids=["work is said to go on", "a page that nobody reads is none"]
)
def test_nothing_fails(words: list[str], said: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, *words], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, said)


def test_help_is_no_work() -> None:
    assert [does_work(words.split()) for words in ("fit -c x.yaml", "fit --help", "fit --model.loss.help TALR", "report x")] == [True, False, False, False]


def test_what_is_read_arrives_whole() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert (done.returncode, done.stderr, done.stdout) == (0, "done\n", ("x" * 70_000 + "\n") * 3)


def test_python_without_buffers_keeps_none() -> None:
    program = "import os; from lit_talr.cli.closed_pipe import outlive_readers; outlive_readers(''); print('x'); os._exit(0)"
    assert subprocess.run([sys.executable, "-u", "-c", program], capture_output=True, text=True).stdout == "x\n"
