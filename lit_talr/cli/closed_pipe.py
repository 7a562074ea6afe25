"""Output that nobody reads any more, as after ``lit-talr fit | head``: it is given up, and the work goes on."""

import io
import os
import sys
from typing import Any


class Output(io.FileIO):
    """A stream of this process; when its reader has gone, what is written there is lost, without an error.

    Args:
        stream: Its number, such as 1.
        remark: Words for standard error when that happens; none if empty.
    """

    def __init__(self, stream: int, remark: str) -> None:
        super().__init__(stream, "w", closefd=False)
        self.remark = remark

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)
            if self.remark:
                print(self.remark, file=sys.stderr)
            return memoryview(data).nbytes


def outlive_readers(remark: str) -> None:
    """Lets standard output and standard error lose their readers; rich would end the process.

    Args:
        remark: Words for standard error, where it is standard output that loses its reader; none if empty.
    """
    for name, words in (("stdout", remark), ("stderr", "")):
        stream = getattr(sys, name)
        is_own = stream is getattr(sys, f"__{name}__")  # and not what a test or a notebook has put in its place
        if is_own and isinstance(stream, io.TextIOWrapper) and not stream.isatty():  # None where it was closed from the start
            stream.flush()
            output: Any = Output(stream.fileno(), words)
            buffer = output if stream.write_through else io.BufferedWriter(output)  # none with PYTHONUNBUFFERED
            text = io.TextIOWrapper(buffer, stream.encoding, stream.errors, line_buffering=stream.line_buffering, write_through=stream.write_through)
            setattr(sys, name, text)
