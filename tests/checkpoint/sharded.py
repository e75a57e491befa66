"""What a rank does in the tests of sharded checkpoints: train, save and load a tiny model that lies on several."""

from __future__ import annotations

import resource
import signal
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from gptcli.checkpoint.background import BackgroundSaver
from gptcli.checkpoint.collectives import on_all, on_first
from gptcli.checkpoint.flatten import flatten_state, restore_state
from gptcli.checkpoint.load import load_checkpoint
from gptcli.checkpoint.local_shards import LocalShard, LocalShards
from gptcli.checkpoint.run_directory import RunDirectory
from gptcli.checkpoint.shards import save_shards
from gptcli.errors import CheckpointError, StorageError

PARTS = ("model", "optimizer")


class Tiny(nn.Module):
    """Some of its tensors have rows that no number of ranks divides evenly, and fewer of them than there are ranks."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.up, self.down, self.norm = nn.Linear(5, 8), nn.Linear(8, 3), nn.LayerNorm(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.down(torch.relu(self.up(x))))


class Job:
    """A model and its optimizer, laid out over the ranks in one of the ways that training knows."""

    def __init__(self, layout: str, seed: int) -> None:
        size = distributed.get_world_size()
        self.model = Tiny(seed)
        if layout == "shards":
            fully_shard(self.model, mesh=init_device_mesh("cpu", (size,)))
        elif layout == "replicas of shards":
            names = ("replicate", "shard")
            fully_shard(self.model, mesh=init_device_mesh("cpu", (2, size // 2), mesh_dim_names=names))
        elif layout == "shards of tensors":
            mesh = init_device_mesh("cpu", (size // 2, 2), mesh_dim_names=("data", "tensor"))
            parallelize_module(self.model, mesh["tensor"], {"up": ColwiseParallel(), "down": RowwiseParallel()})
            fully_shard(self.model, mesh=mesh["data"])
        self.optimizer = torch.optim.AdamW(list(self.model.named_parameters()), lr=0.1)
        self.group = distributed.new_group(backend="gloo")

    def step(self) -> None:
        """One step of training, on the same random numbers on every rank."""
        self.optimizer.zero_grad()
        self.model(torch.randn(4, 5)).square().sum().backward()
        self.optimizer.step()

    def parts(self) -> dict[str, dict[str, Tensor]]:
        parts = {"model": self.model.state_dict(), "optimizer": flatten_state(self.optimizer)[0]}
        return {part: {name: as_pieces(tensor) for name, tensor in named.items()} for part, named in parts.items()}

    def whole(self) -> dict[str, Tensor]:
        """Everything that was learnt, gathered by torch itself."""
        model, moments = self.model.state_dict(), flatten_state(self.optimizer)[0]
        whole = {f"model:{name}": gathered(tensor) for name, tensor in model.items()}
        return whole | {f"optimizer:{name}": gathered(tensor) for name, tensor in moments.items()}

    def saver(self, run: RunDirectory, keep_last: int = 9) -> BackgroundSaver:
        return BackgroundSaver(run, keep_last=keep_last, group=self.group)

    def save(self, saver: BackgroundSaver, step: int) -> StorageError | None:
        """Save and wait; why it failed, if it did."""
        saver.submit(step, self.parts(), {"step": step, "optimizer": flatten_state(self.optimizer)[1]}, lambda: None)
        return saver.wait()

    def allocate(self, name: str, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """LocalShards like those of the parameter of which it is the weight or a moment."""
        parameters = dict(self.model.named_parameters())
        parameter = parameters.get(name, parameters.get(name.rpartition("/")[0]))
        if parameter.shape != shape:
            return torch.empty(shape, dtype=dtype)
        return as_pieces(parameter).each(torch.empty_like)

    def laid_out(self, name: str, tensor: Tensor) -> Tensor:
        """What was loaded of a parameter, as torch's modules and optimizers take it."""
        parameters = dict(self.model.named_parameters())
        like = parameters.get(name, parameters.get(name.rpartition("/")[0]))
        if not isinstance(tensor, LocalShards):
            return tensor
        layout = {"shape": like.shape, "stride": like.stride(), "run_check": False}
        return DTensor.from_local(tensor.tensors[0], like.device_mesh, like.placements, **layout)

    def load(self, path: Path) -> None:
        checkpoint = load_checkpoint(path, PARTS, allocate=self.allocate, group=self.group)
        model, moments = (
            {name: self.laid_out(name, tensor) for name, tensor in checkpoint.tensors[part].items()} for part in PARTS
        )
        self.model.load_state_dict(model)
        restore_state(self.optimizer, moments, checkpoint.state["optimizer"])


def as_pieces(tensor: Tensor) -> Tensor:
    """A DTensor as what this rank has of it."""
    if not isinstance(tensor, DTensor):
        return tensor
    _, offsets = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    return LocalShards.of(tensor.shape, tensor.dtype, [LocalShard(tuple(offsets), tensor.detach().to_local())])


def gathered(tensor: Tensor) -> Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone().contiguous()


def train_and_save(rank: int, folder: Path, layout: str) -> None:
    """Save after two steps, then go on while it is written; leaves what torch gathered in reference.safetensors."""
    job, run = Job(layout, seed=1), RunDirectory(folder)
    for _ in range(2):
        job.step()
    reference, saver = job.whole(), job.saver(run)
    saver.submit(2, job.parts(), {"optimizer": flatten_state(job.optimizer)[1]}, lambda: None)
    job.step()
    assert saver.wait() is None
    if rank == 0:
        save_file(reference, folder / "reference.safetensors")


def load_and_compare(rank: int, folder: Path, layout: str) -> None:
    """What is loaded, into a model of other weights, is what was saved; and the next save of it too."""
    job, run = Job(layout, seed=2), RunDirectory(folder)
    assert run.last_good(group=job.group).step == 2
    job.load(run.checkpoint_path(2))
    reference, whole = load_file(folder / "reference.safetensors"), job.whole()
    assert whole.keys() == reference.keys()
    assert all(
        torch.equal(whole[name], tensor) and whole[name].dtype == tensor.dtype for name, tensor in reference.items()
    )
    job.step()


def rows_of(whole: Tensor, blocks: tuple[int, ...], rank: int) -> LocalShards:
    """A matrix of fused blocks of rows, of each of which every rank has its part."""
    ranks, shards, start = distributed.get_world_size(), [], 0
    for rows in blocks:
        shares = [rows // ranks + (other < rows % ranks) for other in range(ranks)]
        begin = start + sum(shares[:rank])
        offsets = (begin, *(0 for _ in whole.shape[1:]))
        shards.append(LocalShard(offsets, whole[begin : begin + shares[rank]]))
        start += rows
    return LocalShards.of(whole.shape, whole.dtype, shards)


def save_in_shards(rank: int, folder: Path, step: int, weights: dict[str, Tensor]) -> None:
    """Save whole weights as so many ranks, of whose rows each has two parts."""
    halves = {name: (len(tensor) // 2, len(tensor) - len(tensor) // 2) for name, tensor in weights.items()}
    shards = {name: rows_of(tensor, halves[name], rank) for name, tensor in weights.items()}
    save_shards(RunDirectory(folder), step, {"model": shards}, {"val_loss": None}, distributed.group.WORLD)


def load_rows(rank: int, path: Path, weights: dict[str, Tensor], blocks: tuple[int, ...]) -> None:
    """What each rank loads of its rows of the blocks is what is there."""

    def allocate(name: str, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        return rows_of(weights[name], blocks, rank).each(torch.empty_like)

    loaded = load_checkpoint(path, ("model",), allocate=allocate, group=distributed.group.WORLD).tensors["model"]
    for name, tensor in weights.items():
        expected = rows_of(tensor, blocks, rank)
        assert [shard.offsets for shard in loaded[name].shards] == [shard.offsets for shard in expected.shards]
        assert all(map(torch.equal, loaded[name].tensors, expected.tensors))


def fail_on_one(rank: int, folder: Path, failing: int) -> list[str]:
    """Save step 1; save step 2 while rank `failing` cannot write a byte; save step 2 again. What each save said."""
    job, run = Job("shards", seed=1), RunDirectory(folder)
    job.step()
    saver = job.saver(run)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    said = [str(job.save(saver, 1))]
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    if rank == failing:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, unlimited[1]))
    said.append(str(job.save(saver, 2)))
    resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    said.append(
        " ".join(sorted(path.name for path in on_first(job.group, lambda: list(run.checkpoints_dir.iterdir()))))
    )
    said.append(str(job.save(saver, 2)))
    return said


def keep_one(rank: int, folder: Path) -> list[int]:
    """Save three times and keep only the newest; what there is at the end."""
    job, run = Job("shards", seed=1), RunDirectory(folder)
    job.step()
    saver = job.saver(run, keep_last=1)
    for step in (1, 2, 3):
        assert job.save(saver, step) is None
    return [info.step for info in run.checkpoints()]


def refused(rank: int, path: Path) -> str:
    """Why the checkpoint cannot be loaded."""
    job = Job("shards", seed=1)
    try:
        job.load(path)
    except CheckpointError as error:
        return str(error)
    return "it was loaded"


def fail_together(rank: int) -> list[object]:
    """An error of one rank as every rank sees it, and what only the first did."""
    group = distributed.new_group(backend="gloo")

    def failing() -> None:
        if rank == 1:
            raise StorageError("rank 1 has no disk")

    return [
        seen(lambda: on_all(group, failing)),
        seen(lambda: on_first(group, lambda: rank)),
        seen(lambda: on_first(group, fail)),
    ]


def fail() -> None:
    raise CheckpointError("nothing there")


def seen(action: Callable[[], object]) -> object:
    try:
        return action()
    except (StorageError, CheckpointError) as error:
        return f"{type(error).__name__}: {error}"
