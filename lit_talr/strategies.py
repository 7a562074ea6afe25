"""Training strategies that Lightning does not have: DeepSpeed on CPU ranks, for tests and laptops."""

import os

import torch
from lightning.fabric.utilities.seed import reset_seed
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy


class DeepSpeedCPUStrategy(DeepSpeedStrategy):
    """Real ZeRO over gloo, one process per CPU rank.

    Args:
        stage: ZeRO stage; at 2 the optimizer's state and the gradients are sharded over the ranks.
    """

    def __init__(self, stage: int = 2) -> None:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        super().__init__(stage=stage, process_group_backend="gloo")

    def setup_environment(self) -> None:
        DDPStrategy.setup_environment(self)  # DeepSpeedStrategy's own insists on CUDA

    def setup_distributed(self) -> None:
        reset_seed()
        self.set_world_ranks()
        os.environ["LOCAL_SIZE"] = str(self.num_processes)
        self._init_deepspeed_distributed()

    @property
    def root_device(self) -> torch.device:
        return torch.device("cpu", 0)
