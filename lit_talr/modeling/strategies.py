"""Training strategies that Lightning does not have: DeepSpeed on CPU ranks, and FSDP2 with all ranks in one data-parallel group."""

import os
from pathlib import Path
from typing import Any, Literal, TypeGuard

import torch
import torch.distributed as dist
from lightning.fabric.utilities.seed import reset_seed
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, ModelParallelStrategy, Strategy


def is_zero3(strategy: Strategy) -> TypeGuard[DeepSpeedStrategy]:
    """Whether DeepSpeed shards the weights, so that a rank has whole ones only while they are in use."""
    return isinstance(strategy, DeepSpeedStrategy) and strategy.zero_stage_3


def shards_weights(strategy: Strategy) -> bool:
    """Whether no rank has the whole model."""
    return is_zero3(strategy) or isinstance(strategy, FSDP2Strategy)


def end_ranks() -> None:
    """End the threads through which ranks talked, once all are done: at the end of the interpreter they can abort a process whose work is whole."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


class DeepSpeedCPUStrategy(DeepSpeedStrategy):
    """Real ZeRO over gloo, one process per CPU rank; for tests and laptops, so every weight is sharded, however small.

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
        self._init_deepspeed_distributed()
        self.barrier()
        # By now every rank has mapped the 69 MB through which each reduces; DeepSpeed would leave its name, and so the memory, behind for ever.
        name = f"deepspeed_allreduce_buffer_{os.getuid()}_{os.environ['MASTER_ADDR']}_{os.environ['MASTER_PORT']}_{self.global_rank}"
        Path("/dev/shm", name).unlink(missing_ok=True)

    @property
    def root_device(self) -> torch.device:
        return torch.device("cpu", 0)


class FSDP2Strategy(ModelParallelStrategy):
    """FSDP2 (``fully_shard``): weights, gradients and optimizer state sharded over all ranks, on GPUs or CPU ranks; the module shards itself."""

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1)

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()
