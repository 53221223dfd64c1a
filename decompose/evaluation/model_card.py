"""Write a model card (Mitchell et al. 2019, arXiv 1810.03993).

It is made from the model: what was chosen for each layer, and what that saves. What was measured comes
from a record of ``decompose evaluate``, and only if that record is of these very weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from decompose.evaluation.comparison import Change
from decompose.evaluation.records import Metric, dataset_of, figures_of
from decompose.layers.channel_pruning import method_and_rank
from decompose.layers.costs import count_macs, count_params, trace_shapes
from decompose.layers.detectors import is_detector
from decompose.layers.discovery import find_layers
from decompose.layers.modules import DecomposedLayer
from decompose.models.architectures import architecture_of, is_pretrained
from decompose.models.conversion import recomposed
from decompose.utils.batches import Example, shape_text
from decompose.utils.errors import DecomposeError, first_line
from decompose.utils.tables import Table, format_count

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCard


LIBRARY = "decompose"
TAGS = "decompose", "low-rank", "model-compression", "depthwise-separable-convolution"

_CARD = """\
# {title}

{sentence} by decompose: convolutions of it are small expressions of cheaper ones.

{totals}
## Load it

```python
import decompose

small = decompose.load("hf:{repo}"{skeleton})
```

The file is plain safetensors: weights, and the plan that rebuilds the layers. Nothing in it is code.

{measured}{layers}"""


def model_card(
    model: nn.Module,
    example: Example,
    repo: str,
    *,
    record: Mapping[str, Any] | None = None,
    license: str | None = None,
    base_model: str | None = None,
) -> ModelCard:
    """Write the model card of a decomposed model.

    Args:
        model: as ``apply`` made it.
        example: one batch; MACs are counted for its size.
        repo: where it is to lie, ``USER/NAME``.
        record: what ``decompose evaluate`` wrote of it.
        license: of the weights, as the hub names it.
        base_model: the original's name on the hub; a model that comes from timm's
            pretrained weights is known without it.

    Raises:
        DecomposeError: the repository's name is none, or the record is not of this model.
    """
    from huggingface_hub import ModelCard, ModelCardData
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise DecomposeError(f"{repo}: is no name of a repository: {first_line(error)}") from None
    figures = [] if record is None else figures_of(model, record)
    results = [] if record is None else _results(record, figures)
    architecture = architecture_of(model)
    if base_model is None and architecture is not None and is_pretrained(model):
        base_model = architecture.hub_name()
    tasks = {result.task_type for result in results}
    data = ModelCardData(
        license=license,
        base_model=base_model,
        library_name=LIBRARY,
        pipeline_tag="object-detection" if is_detector(model) else next(iter(tasks), None),
        tags=list(TAGS),
        metrics=sorted({result.metric_type for result in results}) or None,
        eval_results=results or None,
        model_name=repo.rpartition("/")[2],
    )
    macs, params = _changes(model, example)
    named = "A model" if architecture is None else f"`{architecture}`"
    text = _CARD.format(
        title=repo.rpartition("/")[2],
        sentence=f"{named}, made smaller",
        totals=_totals(macs.values(), params, example).to_markdown(),
        repo=repo,
        skeleton=", model" if architecture is None else "",
        measured="" if record is None else _measured(record, figures),
        layers=_layers(model, macs).to_markdown(),
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}")


def _results(record: Mapping[str, Any], figures: Sequence[Metric]) -> list[EvalResult]:
    """The figures as the hub reads them."""
    from huggingface_hub import EvalResult

    is_classifier = "accuracies" in record
    task = "image-classification" if is_classifier else "object-detection"
    metric = "accuracy" if is_classifier else "mean_average_precision"
    data, split = dataset_of(record)
    return [
        EvalResult(task, data, data, metric, value, dataset_split=split, metric_name=title)
        for title, value, *_ in figures
    ]


def _measured(record: Mapping[str, Any], figures: Sequence[Metric]) -> str:
    rows = [
        (
            title,
            f"{100 * value:.2f}",
            "" if low is None or high is None else f"{100 * low:.2f} to {100 * high:.2f}",
        )
        for title, value, low, high in figures
    ]
    data, _ = dataset_of(record)
    title = f"Measured on {record.get('num_pictures', 0):,} images of {data}"
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
    is_tensor = isinstance(example, Tensor)
    size = "×".join(map(str, example.shape[1:])) if is_tensor else shape_text(example)
    return Table(f"For one input of {size}", ["", "before", "after", "fewer"], rows)


def _layers(model: nn.Module, macs: Mapping[str, Change]) -> Table:
    rows = [
        (
            name,
            *method_and_rank(layer),
            format_count(macs[name].before / 1e6),
            format_count(macs[name].after / 1e6),
            layer.form if isinstance(layer, DecomposedLayer) else "",
        )
        for name, layer in find_layers(model).items()
    ]
    columns = ["layer", "method", "terms", "MMACs", "after", "form"]
    return Table("What was chosen for each layer", columns, rows)


def _changes(model: nn.Module, example: Example) -> tuple[dict[str, Change], Change]:
    """MACs of every layer and parameters of the whole, before and after."""
    original = recomposed(model)
    shapes = trace_shapes(model, example)
    before, after = count_macs(original, shapes), count_macs(model, shapes)
    params = Change(count_params(original), count_params(model))
    return {name: Change(before[name], after[name]) for name in after}, params
