"""Models whose parameters several processes hold in parts are refused by the name of what cut them."""

import subprocess
import sys

PROGRAM = """
import sys, torch, specop
from torch import distributed, nn
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module
distributed.init_process_group("gloo", init_method=f"file://{sys.argv[1]}", rank=0, world_size=1)
mesh = distributed.device_mesh.init_device_mesh("cpu", (1,))
data = torch.ones(4, 3), torch.zeros(4, 2)
fsdp1 = FullyShardedDataParallel(nn.Linear(3, 2), device_id=torch.device("cpu"))
cut = parallelize_module(nn.Linear(3, 2), mesh, ColwiseParallel())
for sharded in (fsdp1, fully_shard(nn.Linear(3, 2), mesh=mesh), nn.Sequential(cut)):
    try:
        specop.objective(sharded, nn.functional.mse_loss, data)
    except specop.errors.InvalidInputError as error:
        print(str(error)[:40])
distributed.destroy_process_group()
"""


def test_models_in_parts_are_refused_by_name(tmp_path):
    program = f"import sys; sys.path[:] = {sys.path!r}\n{PROGRAM}"
    found = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "store")], capture_output=True, text=True, timeout=120
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.splitlines() == [
        "the model is in FSDP1 (FullyShardedDataP",
        "the model is in FSDP2 (fully_shard), who",
        "2 parameters are DTensors, such as '0.we",
    ]
