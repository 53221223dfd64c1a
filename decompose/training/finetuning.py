"""Train a decomposed model on labels, on the original's outputs, or on both, to win accuracy back.

::

    images = labelled_images("imagenet", transform, "train")
    tuned = finetune(small, images, teacher=model, recipe=Recipe(epochs=10), folder=Path("run"))
    print(tuned.table())
    decompose.save(tuned.network, "tuned.safetensors")

Factors are balanced, then optionally trained layer by layer (``blockwise``), then together (``loop``).
Accelerate handles devices, processes, mixed precision, accumulation and logs.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from decompose.data.images import ImageDataset
from decompose.evaluation.provenance import in_words
from decompose.layers.discovery import copied, find_decomposed
from decompose.models.conversion import plan_of
from decompose.models.onnx.module import OnnxModule
from decompose.models.preprocessing import Transform
from decompose.training.augmentation import AugmentedImages, augmented
from decompose.training.batch_order import BatchOrder
from decompose.training.blockwise import Reconstruction, reconstruct_
from decompose.training.checkpoints import Checkpoints
from decompose.training.frobenius_decay import balance_
from decompose.training.loop import Training, TrainingData
from decompose.training.objective import Objective
from decompose.training.recipe import Recipe
from decompose.training.state import Epoch
from decompose.training.validation import Validator
from decompose.utils.distributed import Processes
from decompose.utils.errors import DecomposeError, first_line
from decompose.utils.hashing import weights_digest
from decompose.utils.optional_dependencies import required
from decompose.utils.tables import Table

if TYPE_CHECKING:
    from accelerate import Accelerator

_NUM_BLOCKWISE, _BLOCKWISE_TOGETHER = 128, 8
"""Images of the first stage, and images decoded at a time."""


@dataclass(frozen=True)
class Finetuned:
    """A finetuned model, and the history of its training.

    Attributes:
        network: the model of the best epoch, in evaluation mode; it keeps its plan.
        history: of the epochs.
        best: index in the history.
        measure: what the scores are: ``accuracy`` or ``likeness``.
        unreadable: images that could not be read, by path, with the reason.
        blockwise: what the first stage did to each layer; empty without one, and in a resumed run.
        before: score of the model before training.
    """

    network: nn.Module
    history: Sequence[Epoch]
    best: int
    measure: str
    unreadable: Mapping[str, str]
    blockwise: Sequence[Reconstruction] = ()
    before: float | None = None

    def table(self) -> Table:
        """A row an epoch, below one of the model before training."""
        title = "Accuracy" if self.measure == "accuracy" else "Likeness (1 less the relative error)"
        before = [] if self.before is None else [("before", "", "", f"{self.before:.2%}")]
        rows = before + [
            (
                f"{index + 1}{' (best)' if index == self.best else ''}",
                f"{epoch.loss:.4f}",
                "" if epoch.accuracy is None else f"{epoch.accuracy:.2%}",
                f"{epoch.score:.2%}",
            )
            for index, epoch in enumerate(self.history)
        ]
        columns = ["epoch", "loss", "in training", "held out"]
        return Table(f"{title} after each epoch", columns, rows)


def _silent(_: str) -> None:
    """Report nothing."""


def finetune(
    small: nn.Module,
    pictures: ImageDataset,
    *,
    teacher: nn.Module | None = None,
    validation: ImageDataset | None = None,
    labelled: bool = True,
    recipe: Recipe | None = None,
    augment: Transform | None = None,
    folder: Path | None = None,
    resume: bool = False,
    device: str = "auto",
    tensorboard: Path | None = None,
    tell: Callable[[str], None] = _silent,
) -> Finetuned:
    """Train a decomposed model to win accuracy back, in float32 whatever its dtype.

    Args:
        small: the model that ``apply`` made; left as it was.
        pictures: images to train on, in the preprocessing of evaluation.
        teacher: the original; left as it was.
        validation: images to validate on; a share of ``pictures`` is held out by default.
        labelled: whether to learn from the images' labels.
        recipe: the settings.
        augment: the preprocessing to train in; that of evaluation with random crops and flips by
            default (``augmentation.augmented``).
        folder: folder of checkpoints; without it none outlives the run.
        resume: whether to continue from the folder's last checkpoint.
        device: ``cpu``, or ``auto`` for the device that Accelerate finds.
        tensorboard: folder of a TensorBoard log.
        tell: called with one line of text an epoch, in the first process.

    Returns:
        A copy of the model with the weights of its best epoch, and the history.

    Raises:
        DecomposeError: model, images, teacher or recipe do not fit; Accelerate cannot have the
            device or precision; the folder holds a run and ``resume`` is not asked for, or it holds
            another one; there is no folder to resume from; the loss is not finite; a checkpoint
            cannot be written.

    Examples:
        >>> import torch
        >>> from PIL import Image
        >>> from torchvision.transforms import v2
        >>> import decompose
        >>> from decompose.data.images import ImageDataset
        >>> from decompose.training.recipe import Recipe
        >>> model = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 8, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
        ... ).eval()
        >>> plan = decompose.plan(model, torch.zeros(1, 3, 8, 8), method="pw_dw", rank=1)
        >>> small = decompose.apply(plan, model)
        >>> as_tensor = v2.Compose([v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)])
        >>> images = ImageDataset(
        ...     [("red", 0), ("blue", 1)] * 4,  # usually paths: see decompose.data.folders
        ...     as_tensor,
        ...     read=lambda name: Image.new("RGB", (8, 8), name),
        ... )
        >>> recipe = Recipe(epochs=1, batch_size=2)
        >>> tuned = decompose.finetune(
        ...     small, images, teacher=model, recipe=recipe, augment=as_tensor, device="cpu"
        ... )
        >>> len(tuned.history), tuned.measure
        (1, 'accuracy')
    """
    require_trainable(small)
    if resume and folder is None:
        raise DecomposeError("to resume a run there must be the folder of its checkpoints")
    recipe = recipe or Recipe()
    accelerator = start(recipe, device, tensorboard)
    processes = Processes(accelerator.process_index, accelerator.num_processes, accelerator.device)
    model = copied(small).float().to(processes.device)
    for layer in find_decomposed(model).values():
        layer.trains_composed = recipe.compose_factors
    if teacher is not None:
        teacher = copied(teacher).float().to(processes.device).eval().requires_grad_(False)
    objective = Objective(recipe, model, teacher, labelled)
    data = _training_data(pictures, validation, augment, objective, processes)
    key = key_of(small, objective, data)
    with ExitStack() as stack:
        # Also of a run that fails, which would lose the end of its log.
        for tracker in accelerator.trackers:
            stack.callback(tracker.finish)
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        checkpoints, found = Checkpoints(folder), []
        is_alone = not processes.is_first() or stack.enter_context(checkpoints.held())
        state = _state(checkpoints, key, processes, resume=resume, is_alone=is_alone)
        if state is None:
            # What does not fit is an error before anything is kept.
            batch = data.first_image()
            objective.rehearse(batch.images.to(processes.device), batch.labels.to(processes.device))
            balance_(model)
            if recipe.blockwise and teacher is not None:
                found = _reconstruct(model, teacher, data.plain, recipe)
        report = tell if processes.is_first() else _silent
        training = Training(accelerator, objective, data, checkpoints, key, report)
        if state is not None:
            training.restore(state)
        devices = [processes.device] if processes.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            training.run()
        training.take_best()
    # Another copy: what Accelerate wraps in mixed precision keeps a trace of it.
    tuned = copied(small).float().to(processes.device).eval()
    tuned.load_state_dict(model.state_dict())
    validator, history = data.validator, training.state.history
    unreadable = {**pictures.damaged, **validator.unreadable}
    for part in processes.gather(training.state.unreadable):
        unreadable |= part
    best, before = training.state.best, training.state.before
    if before is not None and history[best].score < before and processes.is_first():
        warnings.warn(
            f"no epoch scores as high on held-out images ({history[best].score:.2%} at most) as the model "
            f"did before training ({before:.2%}); a lower --learning-rate may help",
            stacklevel=2,
        )
    return Finetuned(tuned, history, best, validator.measure, unreadable, found, before)


def require_trainable(small: nn.Module) -> None:
    """Check that a model is one that can be trained.

    Raises:
        DecomposeError: it came as an ONNX model, much of which lets no gradient through.
    """
    if isinstance(small, OnnxModule):
        raise DecomposeError(
            "an ONNX model cannot be finetuned; finetune the model that it was exported from"
        )


def _training_data(
    images: ImageDataset,
    validation: ImageDataset | None,
    augment: Transform | None,
    objective: Objective,
    processes: Processes,
) -> TrainingData:
    """The images to train on, augmented and plain, and those to validate on."""
    recipe = objective.recipe
    if validation is None:
        images, validation = images.parted(recipe.holdout, recipe.seed)
    order = BatchOrder(len(images), recipe.batch_size, recipe.seed)
    size = order.part_size(processes.count, recipe.accumulate)
    # Epochs are judged by what they were trained for: of images that the original was trained on, labels
    # say next to nothing of how near a model has come to it.
    teacher = None if objective.learns_from_labels else objective.teacher
    validator = Validator(validation, teacher, processes, size, recipe.workers)
    seen = images.with_transforms(augment or augmented(images.transforms[0]))
    return TrainingData(order, AugmentedImages(seen, recipe.seed), images, validator)


def _reconstruct(
    model: nn.Module, teacher: nn.Module, images: ImageDataset, recipe: Recipe
) -> list[Reconstruction]:
    """Reconstruct blockwise on some of the images, alike in every process."""
    some = images.subset(min(_NUM_BLOCKWISE, len(images)), recipe.seed)
    batches = [batch.images for batch in some.batches(_BLOCKWISE_TOGETHER, recipe.workers)]
    return reconstruct_(model, teacher, batches, steps=recipe.blockwise, seed=recipe.seed)


def start(recipe: Recipe, device: str, tensorboard: Path | None) -> Accelerator:
    """Start Accelerate, which handles devices, processes, precision and logs.

    Raises:
        DecomposeError: TensorBoard is asked for and not installed, the device is neither ``cpu`` nor
            ``auto``, or it does not know the precision.
    """
    if device not in ("auto", "cpu"):
        raise DecomposeError(
            f"device {device!r}: say cpu or auto; choose GPUs by CUDA_VISIBLE_DEVICES"
        )
    if tensorboard is not None:
        required("tensorboard", "TensorBoard", "tensorboard")
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    # It keeps one for the whole process, and takes no other precision or device after that; what joins
    # several processes stays.
    AcceleratorState._reset_state(reset_partial_state=os.environ.get("WORLD_SIZE", "1") == "1")
    try:
        accelerator = Accelerator(
            cpu=device == "cpu",
            mixed_precision=recipe.precision,
            gradient_accumulation_steps=recipe.accumulate,
            log_with=None if tensorboard is None else "tensorboard",
            project_dir=None if tensorboard is None else str(tensorboard),
        )
    except (ValueError, ImportError) as error:
        raise DecomposeError(f"Accelerate cannot begin: {first_line(error)}") from None
    if tensorboard is not None:
        accelerator.init_trackers("decompose")
    return accelerator


def key_of(small: nn.Module, objective: Objective, data: TrainingData) -> dict[str, str]:
    """Identify a run, so that it does not resume another run's checkpoint."""
    listings = {
        "pictures": data.plain.samples,
        "held-out pictures": data.validator.images.samples,
    }
    # Settings that do not change the weights.
    settled = replace(objective.recipe, workers=0, seconds_between=0.0)
    teacher = objective.teacher
    return {
        "network": weights_digest(small),
        "plan": plan_of(small).to_json(),
        "teacher": "" if teacher is None else weights_digest(teacher),
        **{
            name: hashlib.sha256(json.dumps([list(s) for s in samples]).encode()).hexdigest()
            for name, samples in listings.items()
        },
        "training preprocessing": in_words(data.augmented.images.transforms[0]),
        "recipe": json.dumps([asdict(settled), objective.labelled]),
    }


def _state(
    checkpoints: Checkpoints,
    key: Mapping[str, str],
    processes: Processes,
    *,
    resume: bool,
    is_alone: bool,
) -> dict | None:
    """The state to resume from, the same in every process; ``None`` for a new run."""
    state, problem = None, None
    if processes.is_first():
        if not is_alone:
            problem = f"{checkpoints.folder}: another run writes there; wait for it, or name another output"
        elif checkpoints.paths() and not resume:
            problem = (
                f"{checkpoints.folder}: holds the checkpoints of a run; go on from them with --resume, "
                "or remove the folder"
            )
        elif resume and (state := checkpoints.newest()) is not None:
            held = state.get("key")
            held = held if isinstance(held, dict) else {}
            others = [name for name, value in key.items() if held.get(name) != value]
            if others:
                problem = (
                    f"{checkpoints.folder}: holds a run with another {' and another '.join(others)}"
                )
    state, problem = processes.share((state, problem))
    if problem:
        raise DecomposeError(problem)
    return state
