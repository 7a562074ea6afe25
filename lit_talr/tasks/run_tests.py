"""Runs a program and its tests in two processes: a script for ``code_tests.py``, which pipes the tests into it.

The program runs in a child of this process, which never sees the tests. They run here, where nothing of the program does: they call its functions over a pipe,
and get plain values back. So there is no mark of success to find: this process alone knows whether the tests have ended, and says so by its exit status.
"""

import builtins
import ctypes
import importlib
import importlib.util
import io
import os
import pickle
import resource
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from types import ModuleType
from typing import Any

LIMITS = {"CPU": 3, "AS": 4 << 30, "FSIZE": 16 << 20, "CORE": 0}
"""Seconds and bytes of each of the two processes; the hub's ``code_eval`` limits the wall time to as much, which passes sooner on a busy machine."""
SET_DUMPABLE, SET_NO_NEW_PRIVILEGES = 4, 38
"""Requests of Linux's ``prctl``."""
LONGEST = 1 << 26
"""Bytes of a message; a text that the program writes into the pipe reads as a longer one, and ends the tests."""
EXACT: dict[type, Callable[[Any], Any]] = {int: int.__index__, float: float.__float__, str: str.__str__, bytes: bytes.__bytes__}
"""Makes an object of a subclass one of the type itself."""


class PlainUnpickler(pickle.Unpickler):
    """Reads values of Python's own types, and runs no code."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"{module}.{name} is no plain value")


def read(pipe: Connection) -> Any:
    return PlainUnpickler(io.BytesIO(pipe.recv_bytes(LONGEST))).load()


def plain(value: Any) -> Any:
    """A value of Python's own types with the content of one of their subclasses, or of numpy's scalars.

    Raises:
        TypeError: For any other object, which a test could not trust.
    """
    if type(value).__module__ == "numpy" and getattr(value, "shape", None) == ():
        value = value.item()
    if value is None or isinstance(value, bool):
        return value
    for kind, exact in EXACT.items():
        if isinstance(value, kind):
            return exact(value)
    for collection in (tuple, list, set, frozenset):
        if isinstance(value, collection):
            return collection(map(plain, value))
    if isinstance(value, dict):
        return {plain(key): plain(item) for key, item in value.items()}
    raise TypeError(f"tests see plain values, not {type(value).__name__}")


def run_program(pipe: Connection) -> None:
    """Runs the program, tells its names, and then calls what the tests ask for; ends with the pipe, or with the program."""
    protect()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # where the tests are
    sys.dont_write_bytecode = True
    with kept_from_waiting(pipe):
        spec = importlib.util.spec_from_file_location("program", "program.py")
        assert spec is not None and spec.loader is not None
        sys.modules["program"] = program = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(program)
    pipe.send_bytes(pickle.dumps([described(name, value) for name, value in vars(program).items() if not name.startswith("__")]))
    while True:
        name, arguments, options = read(pipe)
        with kept_from_waiting(pipe):
            reply = answer(getattr(program, name), arguments, options)
        pipe.send_bytes(pickle.dumps(reply))


def protect() -> None:
    """Takes from the program what it could change the other process's memory by: root's privileges, also those of what it starts."""
    libc = ctypes.CDLL(None)
    libc.prctl(SET_DUMPABLE, 1)  # its own memory is its own
    libc.prctl(SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    libc.capset(struct.pack("Ii", 0x20080522, 0), bytes(24))


@contextmanager
def kept_from_waiting(pipe: Connection) -> Iterator[None]:
    """Lets a program that reads all open files find none to wait for."""
    os.set_blocking(pipe.fileno(), False)
    yield
    os.set_blocking(pipe.fileno(), True)


def described(name: str, value: Any) -> tuple[str, str, Any]:
    """A name of the program, and what the tests have by that name."""
    if isinstance(value, ModuleType):
        return name, "module", value.__name__
    try:
        return name, "value", plain(value)
    except TypeError:
        return name, "function", None


def answer(function: Any, arguments: Any, options: Any) -> tuple[str, Any]:
    """The result of a call, or the names of the error's classes; a program that ends inside ends here."""
    try:
        result = function(*arguments, **options)
        return ("iterator", plain(list(result))) if isinstance(result, Iterator) else ("value", plain(result))
    except Exception as error:
        return "error", ([kind.__name__ for kind in type(error).__mro__], str(error))


def call(pipe: Connection, name: str, *arguments: Any, **options: Any) -> Any:
    """Calls a function of the program, for a test."""
    pipe.send_bytes(pickle.dumps((name, plain(arguments), plain(options))))
    kind, content = read_or_end(pipe)
    if kind == "error":
        names, text = content
        raise next(error for name in names if isinstance(error := getattr(builtins, name, None), type) and issubclass(error, Exception))(text)
    return iter(content) if kind == "iterator" else content


def read_or_end(pipe: Connection) -> Any:
    """Ends the tests where the program has ended; they could catch an error."""
    try:
        return read(pipe)
    except Exception:
        os._exit(1)


def run_tests(pipe: Connection) -> None:
    """Runs the tests with the program's names; Python's builtins are hidden by those that the tests use outside functions alone."""
    code = compile(sys.stdin.buffer.read(), "tests.py", "exec")
    names: dict[str, Any] = {"__name__": "tests"}
    for name, kind, value in read_or_end(pipe):
        if kind == "module" and value in sys.stdlib_module_names:
            names[name] = importlib.import_module(value)
        elif kind != "module" and (not hasattr(builtins, name) or name in code.co_names):
            names[name] = partial(call, pipe, name) if kind == "function" else value
    exec(code, names)


def main() -> None:
    """Exits with 0 only where the tests have run to their end."""
    for name, limit in LIMITS.items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (limit, limit))
    ctypes.CDLL(None).prctl(SET_DUMPABLE, 0)  # no process of the same user reads or changes its memory
    own, other = Pipe()
    status = 1
    try:
        if os.fork() == 0:
            own.close()
            run_program(other)
        other.close()
        run_tests(own)
        status = 0
    finally:
        os._exit(status)


if __name__ == "__main__":
    main()
