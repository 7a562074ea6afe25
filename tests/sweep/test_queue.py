"""The queue that workers share."""

import fcntl
from pathlib import Path

from lit_talr.sweep.queue import Queue


def test_half_a_line_of_the_journal_is_taken_off_while_others_use_it(tmp_path: Path) -> None:
    queue = Queue(tmp_path, None, "study", 1)
    queue.add(["a", "b"], lambda name: False)
    with (tmp_path / "study.journal").open("a") as file:
        file.write('{"op_code": 4, "wor')
    taken = queue.take(["a", "b"])
    assert taken is not None
    queue.put_back(taken)
    assert queue.is_busy(["a", "b"]) and Queue(tmp_path, None, "study", 1).outcomes(["a", "b"]) == ([], {})


def test_what_was_left_is_waited_for_until_it_is_put_back(tmp_path: Path) -> None:
    """A worker that finds its lock still held by a command of another one must not take the sweep for ended."""
    queue = Queue(tmp_path, None, "study", 1)
    queue.add(["a"], lambda name: False)
    with (tmp_path / ".locks" / "a").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        assert queue.take(["a"]) is None and queue.is_busy(["a"])
    taken = queue.take(["a"])
    assert taken is not None
    queue.complete(taken, [0.5], [], lambda name: True)
    assert not queue.is_busy(["a"]) and queue.outcomes(["a"]) == (["a"], {})
