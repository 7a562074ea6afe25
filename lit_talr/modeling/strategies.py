"""Training strategies: which parts each splits among ranks, and two that Lightning does not have."""

import atexit
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeGuard

import torch
import torch.distributed as dist
from lightning.fabric.utilities.seed import reset_seed
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, ModelParallelStrategy, Strategy
from lightning.pytorch.strategies.launchers import subprocess_script

from lit_talr.modeling.extensions import use_owned_batons
from lit_talr.utils.collectives import STARTED_BY, rank, starter_has_ended
from lit_talr.utils.errors import CONTINUE, end_of
from lit_talr.utils.waiting import reported

META = "meta.pt"
"""The file of a checkpoint of FSDP2 with all that is not a tensor of the model or the optimizer."""
GRACE = 10.0
"""Seconds for a rank to end by itself, once one that it works with has ended."""


def is_deepspeed(strategy: Strategy) -> TypeGuard[DeepSpeedStrategy]:
    """Whether DeepSpeed runs the step: it splits the optimizer, keeps fp32 masters of rounded weights, and checks gradients in half precision itself."""
    return isinstance(strategy, DeepSpeedStrategy)


def is_zero3(strategy: Strategy) -> TypeGuard[DeepSpeedStrategy]:
    """Whether DeepSpeed shards the weights, so that a rank has whole ones only while they are in use."""
    return is_deepspeed(strategy) and strategy.zero_stage_3


def splits_optimizer(strategy: Strategy) -> bool:
    """Whether each rank owns a part of the optimizer's state, and an engine waits for every weight's gradient."""
    return is_deepspeed(strategy) or isinstance(strategy, FSDP2Strategy)


def shards_weights(strategy: Strategy) -> bool:
    """Whether no rank has the whole model."""
    return is_zero3(strategy) or isinstance(strategy, FSDP2Strategy)


def needs_every_forward(strategy: Strategy) -> bool:
    """Whether each rank has to run every micro-batch, even one without examples."""
    return splits_optimizer(strategy) or bool(getattr(strategy, "_ddp_kwargs", {}).get("static_graph", False))


def set_engine_defaults(strategy: Strategy) -> None:
    """Gives DeepSpeed the micro-batch size that it only logs; Lightning would ask a batch sampler, which a batch plan is not."""
    if is_deepspeed(strategy):
        use_owned_batons()
        if isinstance(strategy.config, dict):
            strategy.config.setdefault("train_micro_batch_size_per_gpu", 1)


def report_start(strategy: Strategy, num_ranks: int) -> None:
    """Lets a strategy report where the start of its ranks takes long: Lightning waits half an hour for one that is missing."""
    set_up = strategy.setup_environment

    def set_up_reported() -> None:
        first = " (DeepSpeed first compiles an extension)" if is_deepspeed(strategy) else ""
        with reported(lambda: f"all {num_ranks} ranks to start{first}; if one is missing or has ended, end the others and start again"):
            set_up()

    strategy.setup_environment = set_up_reported  # type: ignore[method-assign]


def report_lost_ranks() -> None:
    """Lets no rank end, or wait, without a word where another has ended; Lightning's own observer kills all ranks in silence."""
    subprocess_script._launch_process_observer = lambda child_processes: threading.Thread(target=watch_started, args=(child_processes,), daemon=True).start()
    if rank() == 0:
        os.environ[STARTED_BY] = str(os.getpid())
    elif STARTED_BY in os.environ:
        threading.Thread(target=watch_starter, daemon=True).start()


def watch_started(started: list["subprocess.Popen[bytes]"], period: float = 0.2) -> None:
    """Ends rank 0, and the ranks that it started, where one of these has failed."""
    while all(process.poll() in (None, 0) for process in started):
        time.sleep(period)
    if all((process.poll() or 0) >= 0 for process in started):
        time.sleep(GRACE)  # an error may be one of all ranks, and rank 0 says its own
    lost = next(number for number, process in enumerate(started, 1) if process.poll())
    for process in started:
        process.kill()  # a rank that waits for another does not hear SIGTERM
    end_rank(f"rank {lost} has ended ({end_of(started[lost - 1].returncode)})", max(started[lost - 1].returncode, 1))


def watch_starter(period: float = 0.2) -> None:
    """Ends a rank whose starter, rank 0, has ended."""
    while not starter_has_ended():
        time.sleep(period)
    time.sleep(GRACE)
    end_rank("rank 0 has ended", 1)


def end_rank(reason: str, status: int) -> NoReturn:
    """Ends a rank that may wait for another forever, from any thread of it."""
    print(f"lit-talr{f' (rank {rank()})' if rank() else ''}: {reason}, and all end with it; {CONTINUE}.", file=sys.stderr, flush=True)
    os._exit(status)


def layout_factor(trainer: Trainer) -> int:
    """The factor of a micro-batch's loss that undoes the averages over ranks and micro-batches."""
    divisions = 2 if trainer.strategy.handles_gradient_accumulation else 1  # DeepSpeed divides on top of Lightning
    return trainer.accumulate_grad_batches**divisions * trainer.world_size


def checkpoint_kind(strategy: Strategy) -> str:
    """The strategies that can read each other's checkpoints, in words."""
    if is_deepspeed(strategy):
        return "ZeRO-3" if is_zero3(strategy) else "ZeRO-1 or ZeRO-2"
    return "FSDP2" if isinstance(strategy, FSDP2Strategy) else "one process or DDP"


@contextmanager
def whole_models() -> Iterator[None]:
    """Builds models whole inside the block, although around it DeepSpeed shards each model that is made (ZeRO-3)."""
    if "deepspeed" not in sys.modules:
        yield
        return
    from deepspeed.runtime.zero.partition_parameters import restore_init_context, shutdown_init_context
    from transformers.integrations import deepspeed as integration

    sharding = integration._hf_deepspeed_config_weak_ref
    integration.unset_hf_deepspeed_config()
    shutdown_init_context()
    try:
        yield
    finally:
        restore_init_context()
        integration._hf_deepspeed_config_weak_ref = sharding


def end_process(status: int = 0) -> NoReturn:
    """Ends this process with an exit status; where it was a rank, without the interpreter's own end.

    A thread of gloo's process group can still be dropping a tensor, which takes the interpreter; Python before 3.14 ends such a thread by force, and that
    aborts a process whose work is complete. What the interpreter's end does for others is done before: threads are awaited, exit functions called.
    """
    if not (dist.is_available() and dist.is_initialized()):
        sys.exit(status)
    for thread in threading.enumerate():
        if not thread.daemon and thread is not threading.current_thread():
            thread.join()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


class DeepSpeedCPUStrategy(DeepSpeedStrategy):
    """ZeRO over gloo, one process per CPU rank, for tests and laptops. Every weight is sharded, however small.

    Args:
        stage: ZeRO stage: 1 shards the optimizer's state over the ranks, 2 the gradients too, 3 the weights as well.
        offload: Use the code path that keeps optimizer and weights in the CPU's memory.
    """

    def __init__(self, stage: Literal[1, 2, 3] = 2, offload: bool = False) -> None:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        zero: dict[str, Any] = {"stage": stage}
        if stage == 3:
            zero |= {"stage3_param_persistence_threshold": 0, "stage3_max_reuse_distance": 0}
        if offload:
            zero |= {"offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "cpu"}}
        config = {"zero_allow_untested_optimizer": True, "zero_force_ds_cpu_optimizer": False, "zero_optimization": zero}
        super().__init__(config=config, process_group_backend="gloo")

    def setup_environment(self) -> None:
        DDPStrategy.setup_environment(self)  # DeepSpeedStrategy's own insists on CUDA

    def setup_distributed(self) -> None:
        reset_seed()
        self.set_world_ranks()
        os.environ["LOCAL_SIZE"] = str(self.num_processes)
        use_owned_batons()
        self._init_deepspeed_distributed()
        self.barrier()
        # Every rank has mapped its 69 MB reduction buffer by now. DeepSpeed would leave the file, and so the memory, behind.
        name = f"deepspeed_allreduce_buffer_{os.getuid()}_{os.environ['MASTER_ADDR']}_{os.environ['MASTER_PORT']}_{self.global_rank}"
        Path("/dev/shm", name).unlink(missing_ok=True)

    @property
    def root_device(self) -> torch.device:
        return torch.device("cpu", 0)


class FSDP2Strategy(ModelParallelStrategy):
    """FSDP2 (``fully_shard``): weights, gradients and optimizer state are sharded over all ranks, on GPUs or CPU ranks. The module shards itself."""

    before_loading: Callable[[dict[str, Any]], None] | None = None
    """Called with all of a checkpoint that is not a tensor before the tensors are loaded, which a checkpoint of another model or loss fails in."""

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        path = Path(checkpoint_path, META)
        if self.before_loading is not None and path.is_file():
            self.before_loading(torch.load(path, map_location="cpu", weights_only=True))
        return super().load_checkpoint(checkpoint_path, weights_only)

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()
