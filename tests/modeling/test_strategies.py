"""Strategies: how a process ends that was a rank."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import atexit, sys, threading, time
from pathlib import Path
import torch.distributed as dist
from lit_talr.modeling.strategies import end_process
done, is_rank = Path(sys.argv[1]), sys.argv[2] == "rank"
if is_rank:
    dist.init_process_group("gloo", init_method=f"file://{done}/store", rank=0, world_size=1)
atexit.register((done / "atexit").touch)
threading.Thread(target=lambda: (time.sleep(0.2), (done / "thread").touch())).start()
print("written")
try:
    end_process(3)
finally:
    (done / "unwound").touch()
"""


@pytest.mark.parametrize("kind", ["rank", pytest.param("other", marks=pytest.mark.slow)])
def test_a_process_ends_with_its_status_and_its_work(tmp_path: Path, kind: str) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path), kind], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (3, "written\n"), done.stderr
    assert (tmp_path / "atexit").is_file() and (tmp_path / "thread").is_file()
    assert (tmp_path / "unwound").is_file() == (kind == "other")  # a rank doesn't meet the interpreter's end
