"""The training loop: optimises a model by a recipe, step by step, in any number of processes, with accelerate."""

import copy
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed
from safetensors.torch import load_file, save_file
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..data import StreamSampler, TrainingStream, TrainTransform
from ..inference import is_out_of_memory
from ..processes import ReportingDataset, collate_reported, raise_reported, start_processes, worker_init
from .depthwise import replace_dilated_depthwise, restore_dilated_depthwise
from .finite import check_losses, check_weights
from .fully_sharded import check_launcher, gather_weights, prepare_sharding
from .log import check_trackers, memory_in_use
from .optimization import make_optimizer, make_schedule, memory_format, prepare_batch_norms
from .precision import check_precision
from .sharing import explain_out_of_memory, explain_single_value, needs_two_images, share_batch

if TYPE_CHECKING:
    import datasets

    from .arguments import CMDLTrainingArguments

logger = logging.getLogger(__name__)

_EMA_FILE = "ema.safetensors"


class TrainingLoop:
    """Trains a model on a data set, step by step.

    Args:
        model (`nn.Module`): Takes `pixel_values` and `labels`, returns `loss` and `loss_dict`. It is trained in place,
            on the device that accelerate chooses. With FSDP a copy is trained, which is divided among the processes.
        dataset (`datasets.Dataset`): With the columns `image` and `label`.
        transform (`TrainTransform`): Makes training crops from samples.
        args (`CMDLTrainingArguments`): The recipe.
        log_dir (`Path`, *optional*): Folder for trackers that write files.

    Attributes:
        step (`int`): Optimiser steps done so far.
        accelerator (`Accelerator`): The accelerator of this run.
        model (`nn.Module`): The model without accelerate's wrapper.
        is_sharded (`bool`): Whether the model is divided among the processes, with FSDP.
        scored_model (`nn.Module`): The model to score and save, after `share_model`: with the averaged weights, if
            there is an average, and never divided.

    Raises:
        ValueError: if the batch cannot be divided equally, there are no images, a batch norm would see a single value
            per channel (one image per pass and global pooling), fp16 is set on a CPU, a tracker is unknown, or the
            launcher asks for a way of training that is not supported (DeepSpeed, or FSDP on CPUs).
        ImportError: if a tracker is not installed.
    """

    def __init__(
        self,
        model: nn.Module,
        dataset: "datasets.Dataset",
        transform: TrainTransform,
        args: "CMDLTrainingArguments",
        log_dir: Path | None = None,
    ) -> None:
        check_launcher()
        check_trackers(args.report_to)
        start_processes()
        AcceleratorState._reset_state()  # otherwise the precision of an earlier loop would stay
        self.accelerator = Accelerator(
            mixed_precision=args.mixed_precision,
            log_with=list(args.report_to) or None,
            project_dir=log_dir,
            # Every process computes the same memory bank, and batch norms are shared before they are used.
            kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True, broadcast_buffers=False)],
        )
        check_precision(self.accelerator)
        self.is_sharded = prepare_sharding(self.accelerator, args, model)
        self.args = args
        self.step = 0
        self.num_passes, self.images_per_pass = share_batch(args, self.accelerator.num_processes)
        self.accelerator.gradient_accumulation_steps = self.num_passes
        if len(dataset) == 0:
            raise ValueError("there are no training images; check the train split of the data set")
        logger.info(
            f"a batch of {args.total_batch_size} images: {_count(self.accelerator.num_processes, 'process')} × "
            f"{_count(self.num_passes, 'pass')} × {_count(self.images_per_pass, 'image')}"
        )
        set_seed(args.seed, device_specific=True)
        self.stream = TrainingStream(dataset.with_transform(transform), args.seed)
        self._memory_format = memory_format(args, self.accelerator.device)
        self._batches: Iterator[dict[str, Tensor]] | None = None
        self._whole_model = model
        self.model = self._prepare_model(copy.deepcopy(model) if self.is_sharded else model)
        # DDP copies the weights only: memory banks that start differently would stay so. FSDP copies nothing.
        _copy_from_first_process(self.model.state_dict().values())
        self._ema = ModelEmaV3(self.model, args.ema_decay, exclude_buffers=True) if args.ema_decay else None
        optimizer = make_optimizer(self.model, args, self.accelerator.mixed_precision)
        self.schedule = make_schedule(optimizer, args)
        if self.accelerator.num_processes > 1:
            self._freeze_unreached()  # after make_optimizer: its groups must not depend on the number of processes
        if args.use_compile:
            self.model.compile()
        self._wrapped_model, self.optimizer = self.accelerator.prepare(self.model, optimizer)

    @property
    def scored_model(self) -> nn.Module:
        """The model to score and save, after `share_model`; see the class."""
        if self._ema:
            return self._ema.module
        return self._whole_model if self.is_sharded else self.model

    def advance(
        self, until: int, on_step: Callable[[], Any] = lambda: None, should_stop: Callable[[], bool] = lambda: False
    ) -> dict[str, float]:
        """Train up to a step.

        Args:
            until (`int`): Step to reach, above `step`.
            on_step (`Callable`): Called after each step.
            should_stop (`Callable`): Called before each step except the first. It must return the same value in all
                processes.

        Returns:
            `dict`: `step`, `epoch`, `learning_rate` of the last step, the means of `loss` and of each loss in
            `loss_dict` over steps and processes, `images_per_second`, and `memory_gib`.

        Raises:
            FloatingPointError: if a loss or a weight is not finite. For a loss, the message names step and images.
            MemoryError: if a pass does not fit into memory. The message proposes a smaller one.
        """
        first_step, start = self.step, time.perf_counter()
        learning_rate = math.nan
        names: list[str] = []
        losses: list[Tensor] = []
        self._set_training_mode()
        while self.step < until and not (losses and should_stop()):
            for _ in range(self.num_passes):
                loss_dict = self._try_pass()
                names = list(loss_dict)
                losses.append(torch.stack([loss.detach().float() for loss in loss_dict.values()]))
            learning_rate = float(self.schedule.get_last_lr()[0])
            self.schedule.step()
            self.step += 1
            if self._ema:
                self._ema.update(self.model, self.step)
            on_step()
        # Only here does the loop wait for the device and for the other processes.
        every_loss = self.accelerator.gather(torch.stack(losses)[None]).cpu()  # (processes, passes, losses)
        seconds = time.perf_counter() - start
        check_losses(every_loss, names, first_step, self)
        check_weights(self)
        num_images = (self.step - first_step) * self.args.total_batch_size
        return {
            "step": self.step,
            "epoch": self.step * self.args.total_batch_size / len(self.stream.dataset),
            "learning_rate": learning_rate,
            **dict(zip(names, every_loss.mean(dim=(0, 1)).tolist(), strict=True)),
            "images_per_second": num_images / seconds,
            "memory_gib": memory_in_use(),
        }

    def read_ahead(self, num_batches: int) -> Iterator[dict[str, Tensor]]:
        """Yield this process's part of the next batches, in training mode. Training will use these batches again."""
        self._set_training_mode()
        for _ in range(num_batches * self.num_passes):
            yield self._next_batch()
        self._batches = None

    def close(self) -> None:
        """End the worker processes that read data. A further `advance` starts new ones."""
        self._batches = None

    def release_model(self) -> None:
        """Remove what was added to the model for the training. The loop cannot be used afterwards.

        That is accelerate's autocast around `forward`, too, without transformers' own decorators, which
        `unwrap_model(keep_fp32_wrapper=False)` would also remove.
        """
        for model in (self.model, self.scored_model):
            restore_dilated_depthwise(model)
        forward = vars(self.model).pop("_original_forward", None)
        if forward is not None:
            del self.model.forward
            if self.model.forward != forward:  # not the method of its class
                self.model.forward = forward

    def agree(self, flag: bool) -> bool:
        """Return whether the flag is set in any process."""
        if self.accelerator.num_processes == 1:
            return flag
        return bool(self.accelerator.gather(torch.tensor([flag], device=self.accelerator.device)).any())

    def save_state(self, folder: Path) -> None:
        """Write the complete training state. Every process must call this."""
        self.accelerator.save_state(str(folder))
        if self._ema and self.accelerator.is_main_process:
            state = {name: tensor.contiguous() for name, tensor in self._ema.module.state_dict().items()}
            save_file(state, folder / _EMA_FILE)

    def schedule_state(self) -> dict[str, Any]:
        """Return the state of the learning-rate schedule, in types that JSON can hold."""
        return {name: value for name, value in self.schedule.state_dict().items() if name != "lr_lambdas"}

    def load_state(self, folder: Path, step: int, schedule_state: dict[str, Any]) -> None:
        """Load a saved training state.

        Args:
            folder (`Path`): Folder that `save_state` wrote.
            step (`int`): Optimiser step at which it was saved.
            schedule_state (`dict`): State that `schedule_state` returned at that step.
        """
        self.accelerator.load_state(str(folder))
        self.accelerator.step = 0  # it counts passes, and their number depends on the number of processes
        self.schedule.load_state_dict(schedule_state | {"lr_lambdas": [None] * len(self.schedule.lr_lambdas)})
        if self._ema:
            self._ema.module.load_state_dict(load_file(folder / _EMA_FILE))
        self.step = step
        self._batches = None

    def share_model(self) -> None:
        """Make `scored_model` equal in all processes. Every process must call this.

        It gets the weights of all parts of a sharded model, and the buffers of the first process, because batch-norm
        statistics differ between processes.
        """
        if self.is_sharded:
            gather_weights(self.model, self._whole_model.to(self.accelerator.device))
        _copy_from_first_process(self.scored_model.buffers())

    def _prepare_model(self, model: nn.Module) -> nn.Module:
        """Move a model to its device, and prepare its batch norms."""
        is_cuda = self.accelerator.device.type == "cuda"
        is_synchronised = self.accelerator.num_processes > 1 and is_cuda  # only CUDA has synchronised norms
        self._least_images = 2 if needs_two_images(self.args, model, is_synchronised) else 1
        if self.images_per_pass < self._least_images:
            raise ValueError(
                "with one image per pass, the batch norms after global pooling see a single value per channel; raise "
                "per_device_batch_size or total_batch_size, or start fewer processes"
            )
        model = model.to(self.accelerator.device).to(memory_format=self._memory_format)
        model, self._frozen_norms = prepare_batch_norms(model, self.args.freeze_batch_norm, is_synchronised)
        if self.accelerator.device.type == "cpu" and not self.args.use_compile:
            replace_dilated_depthwise(model)
        return model

    def _freeze_unreached(self) -> None:
        """Freeze parameters that no loss depends on. Distributed training would wait for their gradients forever.

        A pass in eval mode finds them. It changes no statistics and no memory bank, and uses no random numbers.
        """
        model, sample = self.model, self.stream[0]
        model.eval()
        inputs = {name: value[None].to(self.accelerator.device) for name, value in sample.items()}
        model(**inputs).loss.backward()
        unreached = [name for name, parameter in model.named_parameters() if parameter.grad is None]
        for parameter in model.parameters():
            parameter.requires_grad_(parameter.requires_grad and parameter.grad is not None)
            parameter.grad = None
        if unreached:
            logger.info(
                f"{len(unreached)} parameters are not trained, because no loss depends on them, such as {unreached[0]}"
            )

    def _set_training_mode(self) -> None:
        if self.is_sharded:
            self._whole_model.cpu()
        self._wrapped_model.train()
        for norm in self._frozen_norms:
            norm.eval()

    def _try_pass(self) -> dict[str, Tensor]:
        try:
            return self._run_pass()
        except (RuntimeError, MemoryError, ValueError) as error:
            if "more than 1 value per channel" in str(error):
                raise explain_single_value(error) from error
            if not is_out_of_memory(error):
                raise
            share = self.images_per_pass * self.num_passes
            raise explain_out_of_memory(self.step + 1, self.images_per_pass, share, self._least_images) from error

    def _run_pass(self) -> dict[str, Tensor]:
        """Run forward and backward of one pass. The last pass of a step also updates the weights."""
        batch = self._next_batch()
        with self.accelerator.accumulate(self._wrapped_model):
            # accelerate's wrapper has the precision, except for a sharded model.
            with self.accelerator.autocast() if self.is_sharded else nullcontext():
                output = self._wrapped_model(**batch)
            self.accelerator.backward(output.loss)
            if self.accelerator.sync_gradients and self.args.max_grad_norm is not None:
                self.accelerator.clip_grad_norm_(self._wrapped_model.parameters(), self.args.max_grad_norm)
            self.optimizer.step()
            self.optimizer.zero_grad()
        return {"loss": output.loss} | output.loss_dict

    def _next_batch(self) -> dict[str, Tensor]:
        if self._batches is None:
            self._batches = iter(self._make_loader())
        device = self.accelerator.device
        batch = raise_reported(next(self._batches))
        batch = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
        batch["pixel_values"] = batch["pixel_values"].contiguous(memory_format=self._memory_format)
        return batch

    def _make_loader(self) -> DataLoader:
        sampler = StreamSampler(
            self.step,
            self.images_per_pass,
            self.num_passes,
            self.accelerator.process_index,
            self.accelerator.num_processes,
        )
        return DataLoader(
            ReportingDataset(self.stream),
            batch_sampler=sampler,
            collate_fn=collate_reported,
            num_workers=self.args.num_workers,
            pin_memory=self.accelerator.device.type == "cuda",
            generator=torch.Generator(),  # otherwise the loader would use the random generator of dropout
            worker_init_fn=worker_init(),
        )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 'es' if noun.endswith('s') else 's'}"


def _copy_from_first_process(tensors: Iterable[Tensor]) -> None:
    if torch.distributed.is_initialized():
        for tensor in tensors:
            torch.distributed.broadcast(tensor, 0)
