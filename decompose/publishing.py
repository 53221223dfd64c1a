"""A saved network on the Hugging Face hub, with a model card (Mitchell et al. 2019, arXiv 1810.03993).

The card is made from the file: what was chosen for each layer, and what that saves. What was measured
comes from a record of ``decompose evaluate``, and only if that record is of these very weights.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import nn

from decompose.architectures import architecture_of, is_pretrained
from decompose.calls import Example, tensors
from decompose.comparison import Change
from decompose.convert import plan_of, recomposed
from decompose.detectors import is_detector
from decompose.errors import DecomposeError, first_line
from decompose.files import parse_json, write_text, writing
from decompose.layers import count_macs, count_params, find_layers, trace_shapes
from decompose.modules import DecomposedLayer
from decompose.provenance import weights_digest
from decompose.tables import Table, format_count

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCard

FILE = "model.safetensors"
"""What the network's file is called on the hub."""

_SPLITS = ("train", "val", "validation", "test")

_CARD = """\
# {title}

{sentence} by decompose: convolutions of it are small expressions of cheaper ones.

{totals}
## Load it

```python
import decompose
from huggingface_hub import hf_hub_download

network = decompose.load(hf_hub_download("{repo}", "{file}"){skeleton})
```

The file is plain safetensors: weights, and the plan that rebuilds the layers. Nothing in it is code.

{measured}{layers}"""


def model_card(
    network: nn.Module,
    example: Example,
    repo: str,
    *,
    record: Mapping[str, Any] | None = None,
    license: str | None = None,
    base_model: str | None = None,
) -> ModelCard:
    """Tell of a network what its users need to know.

    Args:
        network: as ``apply`` made it.
        example: one batch; its sizes tell what a layer costs.
        repo: where it is to lie, ``USER/NAME``.
        record: what ``decompose evaluate`` wrote of it.
        license: of the weights, as the hub names it.
        base_model: what it was made from, as the hub names it; what comes from timm's
            pretrained weights tells by itself.

    Raises:
        DecomposeError: the repository's name is none, or the record is not of this network.
    """
    from huggingface_hub import ModelCard, ModelCardData
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise DecomposeError(f"{repo}: is no name of a repository: {first_line(error)}") from None
    figures = [] if record is None else _figures(network, record)
    results = [figure.result for figure in figures]
    architecture = architecture_of(network)
    if base_model is None and architecture is not None and is_pretrained(network):
        base_model = architecture.hub_name()
    tasks = {result.task_type for result in results}
    data = ModelCardData(
        license=license,
        base_model=base_model,
        library_name="decompose",
        pipeline_tag="object-detection" if is_detector(network) else next(iter(tasks), None),
        tags=["decompose", "low-rank", "model-compression", "depthwise-separable-convolution"],
        metrics=sorted({result.metric_type for result in results}) or None,
        eval_results=results or None,
        model_name=repo.rpartition("/")[2],
    )
    macs, params = _changes(network, example)
    named = "A network" if architecture is None else f"`{architecture}`"
    text = _CARD.format(
        title=repo.rpartition("/")[2],
        sentence=f"{named}, made smaller",
        totals=_totals(macs.values(), params, example).to_markdown(),
        repo=repo,
        file=FILE,
        skeleton=", model" if architecture is None else "",
        measured=_measured(record, figures),
        layers=_layers(network, macs).to_markdown(),
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}")


def write_folder(source: Path, card: ModelCard, folder: Path) -> list[Path]:
    """Write what would be published into a folder, made if it is not there.

    Returns:
        The files.

    Raises:
        DecomposeError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DecomposeError(f"{folder}: cannot be written: {error.strerror}") from None
    network, readme = folder / FILE, folder / "README.md"
    with writing(network) as temporary:
        shutil.copyfile(source, temporary)
    write_text(readme, str(card))
    return [network, readme]


def upload(source: Path, card: ModelCard, repo: str, *, private: bool) -> str:
    """Publish a network; the repository is made if it is not there.

    Args:
        source: the network's file.
        card: its card.
        repo: ``USER/NAME``.
        private: for those alone who are let in; of a repository that is there, it stays as it is.

    Returns:
        Its address.

    Raises:
        DecomposeError: the hub cannot be reached, or does not take it.
    """
    from huggingface_hub import HfApi

    # Of whichever library the hub's client asks through; it has changed.
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    api = HfApi()
    try:
        # Asked first, since nothing needs to be written where nobody answers.
        address = api.create_repo(repo, private=private or None, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            write_folder(source, card, Path(folder))
            api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Publish a network")
    # The hub's own errors are one of these as well.
    except (HTTPError, OSError, ValueError) as error:
        raise DecomposeError(
            f"{repo}: cannot be published ({first_line(error)}); --folder DIR writes the same files "
            "to be uploaded later"
        ) from None
    return str(address)


def read_record(path: Path) -> dict[str, Any]:
    """Read what ``decompose evaluate`` wrote.

    Raises:
        DecomposeError: there is no such file, or it is no such record.
    """
    try:
        record = parse_json(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise DecomposeError(f"{path}: cannot be read: {first_line(error)}") from None
    if not isinstance(record, dict) or not {"accuracies", "precisions"} & set(record):
        raise DecomposeError(f"{path}: is no record of decompose evaluate")
    return record


class _Figure(NamedTuple):
    """A figure of a record, and the shares between which it lies with 95 % confidence, if told."""

    result: EvalResult
    low: float | None
    high: float | None


def _figures(network: nn.Module, record: Mapping[str, Any]) -> list[_Figure]:
    """What a record says of a network, which it knows by its weights."""
    from huggingface_hub import EvalResult

    digest = weights_digest(network)
    try:
        known = record["provenance"]["weights"]
        name = next((name for name, other in known.items() if other == digest), None)
        if name is None:
            raise DecomposeError("the record is not of this network: it has other weights")
        if "accuracies" in record:
            task, own = "image-classification", record["accuracies"][name]
            found = [
                ("accuracy", f"top-{k} accuracy", estimate)
                for k, estimate in ((1, own["top1"]), (5, own["top5"]))
                if estimate is not None
            ]
        else:
            task, own = "object-detection", record["precisions"][name]
            titles = {
                "map_50": "mAP at IoU 0.5",
                "map": "mAP at IoU 0.5:0.95",
                "map_voc2007": "mAP of VOC 2007",
            }
            found = [
                ("mean_average_precision", title, {"value": own[key]})
                for key, title in titles.items()
            ]
        data, split = _dataset(Path(record["data"]))
        return [
            _Figure(
                EvalResult(
                    task,
                    data,
                    data,
                    metric,
                    float(estimate["value"]),
                    dataset_split=split,
                    metric_name=title,
                ),
                estimate.get("low"),
                estimate.get("high"),
            )
            for metric, title, estimate in found
        ]
    except (KeyError, TypeError, AttributeError):
        raise DecomposeError("the record is none that decompose evaluate wrote") from None


def _dataset(place: Path) -> tuple[str, str | None]:
    """What data are called, and which split of them they are where their folder is called by that."""
    if place.name in _SPLITS and place.parent.name:
        return place.parent.name, place.name
    return place.name or "unnamed", None


def _measured(record: Mapping[str, Any] | None, figures: Sequence[_Figure]) -> str:
    if record is None:
        return ""
    rows = [
        (
            str(result.metric_name),
            f"{100 * result.metric_value:.2f}",
            "" if low is None or high is None else f"{100 * low:.2f} to {100 * high:.2f}",
        )
        for result, low, high in figures
    ]
    data = figures[0].result.dataset_name
    title = f"Measured on {record.get('num_pictures', 0):,} pictures of {data}"
    return Table(title, ["", "%", "with 95 % confidence"], rows).to_markdown() + "\n"


def _totals(macs: Iterable[Change], params: Change, example: Example) -> Table:
    whole = sum(macs, Change(0, 0))
    rows = [
        (
            name,
            format_count(change.before / unit),
            format_count(change.after / unit),
            f"{change.ratio:.2f}×",
        )
        for name, change, unit in (
            ("MMACs", whole, 1e6),
            ("k parameters", params, 1e3),
        )
    ]
    sizes = " and ".join("×".join(map(str, tensor.shape[1:])) for tensor in tensors(example))
    return Table(f"For one input of {sizes}", ["", "before", "after", "fewer"], rows)


def _layers(network: nn.Module, macs: Mapping[str, Change]) -> Table:
    layers, choices = find_layers(network), plan_of(network).layers
    rows = [
        (
            name,
            choices[name].label if name in choices else "dense",
            choices[name].rank_label if name in choices else "",
            format_count(macs[name].before / 1e6),
            format_count(macs[name].after / 1e6),
            layer.form if isinstance(layer, DecomposedLayer) else "",
        )
        for name, layer in layers.items()
    ]
    columns = ["layer", "method", "terms", "MMACs", "after", "form"]
    return Table("What was chosen for each layer", columns, rows)


def _changes(network: nn.Module, example: Example) -> tuple[dict[str, Change], Change]:
    """MACs of every layer and parameters of the whole, before and after."""
    original = recomposed(network)
    shapes = trace_shapes(network, example)
    before, after = count_macs(original, shapes), count_macs(network, shapes)
    params = Change(count_params(original), count_params(network))
    return {name: Change(before[name], after[name]) for name in after}, params
