"""Plans: the method and rank of every rewritten layer, as JSON.

A plan holds choices, never weights: a few kilobytes of JSON that a person can read and edit. ::

    {
      "format": "decompose-plan",
      "version": 1,
      "layers": {"conv1_2": {"method": "pw_dw", "rank": 4}},
      "dense": {"conv1_1": "skipped by name"},
      "forms": {"conv1_2": "merged"},
      "notes": {"conv1_2": {"cost": 937754624, "unit": "MACs", "error": 0.002, ...}}
    }

``forms`` names the form in which a rewritten layer runs, where it is not the default one.
``dense`` says why a convolution is left as it is, ``notes`` holds the search's cost and predicted error of
a choice, and ``pace`` the predicted and measured latency; these three are for the reader, without effect.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from decompose.layers.execution_forms import get_form
from decompose.methods.choices import Choice, Note
from decompose.utils.errors import DecomposeError
from decompose.utils.files import parse_json, write_text

Record = TypeVar("Record")

KEPT = "decomposed as before"
"""Why a layer that was decomposed already is not decomposed anew: it is worth its cost."""

NARROWED = "pruned with its reader"
"""Why a layer has no method of its own: it writes no channels but those that its reader keeps."""

_FORMAT, _VERSION = "decompose-plan", 1
_PARTS = "layers", "dense", "notes", "forms"


@dataclass(frozen=True)
class LatencyReport:
    """Predicted and measured latency of the planned model, before its repair.

    Attributes:
        place: engine, version, threads and machine.
        batch_size: inputs at a time.
        original_ms: milliseconds of the original model for one batch.
        predicted_ms: of the planned model, from the times of its layers alone.
        measured_ms: of the planned model, timed in turns with the original.
    """

    place: str
    batch_size: int
    original_ms: float
    predicted_ms: float
    measured_ms: float


@dataclass(frozen=True)
class Plan:
    """The choices for a model: methods and ranks by layer, never weights.

    Attributes:
        layers: the layers to rewrite, by their full module names.
        dense: the convolutions left as they are, with the reason.
        notes: cost and predicted error of the choices, from a budget's search.
        pace: predicted and measured latency, from a latency budget's search.
        forms: forms of rewritten layers, by name, where not the default one.

    Examples:
        >>> import decompose
        >>> plan = decompose.Plan({"conv1": decompose.Choice("pw_dw", 4)})
        >>> print(plan.to_json(), end="")
        {
          "format": "decompose-plan",
          "version": 1,
          "layers": {
            "conv1": {"method": "pw_dw", "rank": 4}
          },
          "dense": {}
        }
        >>> decompose.Plan.from_json(plan.to_json()) == plan
        True
    """

    layers: Mapping[str, Choice] = field(default_factory=dict)
    dense: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, Note] = field(default_factory=dict)
    pace: LatencyReport | None = None
    forms: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """The plan as JSON text, one layer a line."""
        layers = {name: json.dumps(choice.to_dict()) for name, choice in self.layers.items()}
        dense = {name: json.dumps(reason) for name, reason in self.dense.items()}
        notes = {name: json.dumps(asdict(note)) for name, note in self.notes.items()}
        forms = {name: json.dumps(form) for name, form in self.forms.items()}
        last = f',\n  "forms": {_json_lines(forms)}' if forms else ""
        last += f',\n  "notes": {_json_lines(notes)}' if notes else ""
        if self.pace is not None:
            last += f',\n  "pace": {json.dumps(asdict(self.pace))}'
        return (
            f'{{\n  "format": "{_FORMAT}",\n  "version": {_VERSION},\n'
            f'  "layers": {_json_lines(layers)},\n  "dense": {_json_lines(dense)}{last}\n}}\n'
        )

    @classmethod
    def from_json(cls, text: str, source: str = "plan") -> Plan:
        """Read a plan from JSON text.

        Args:
            text: what ``to_json`` wrote, possibly edited.
            source: the name to use in errors.

        Raises:
            DecomposeError: the text is no plan, or names a method that does not exist.
        """
        return cls.from_dict(parse_json(text, source), source)

    @classmethod
    def from_dict(cls, record: Any, source: str = "plan") -> Plan:
        """Read a plan from parsed JSON; otherwise as ``from_json``."""
        if not isinstance(record, dict) or record.get("format") != _FORMAT:
            raise DecomposeError(f'{source}: is no plan: it lacks "format": "{_FORMAT}"')
        if record.get("version") != _VERSION:
            raise DecomposeError(
                f"{source}: is a plan of version {record.get('version')}; this is {_VERSION}"
            )
        parts = layers, dense, notes, forms = [record.get(key, {}) for key in _PARTS]
        if "layers" not in record or not all(isinstance(part, dict) for part in parts):
            raise DecomposeError(f"{source}: {', '.join(_PARTS)} must be objects")
        choices = {name: _read_choice(value, f"{source}: {name}") for name, value in layers.items()}
        reasons = {name: str(reason) for name, reason in dense.items()}
        known = {n: _read_record(Note, note, f"{source}: {n}") for n, note in notes.items()}
        pace = record.get("pace")
        for name, form in forms.items():
            if name not in choices:
                raise DecomposeError(f"{source}: {name} has a form, but is not rewritten")
            _read_form(form, f"{source}: {name}")
        pace = None if pace is None else _read_record(LatencyReport, pace, f"{source}: pace")
        return cls(choices, reasons, known, pace, forms)

    def save(self, path: str | Path) -> None:
        """Write the plan to a JSON file."""
        write_text(path, self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Read a plan from a JSON file.

        Raises:
            DecomposeError: there is no such file, or it is no plan.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "is no text"
            raise DecomposeError(f"{path}: cannot be read: {reason}") from None
        return cls.from_json(text, str(path))


def _json_lines(values: Mapping[str, str]) -> str:
    if not values:
        return "{}"
    lines = ",\n".join(f"    {json.dumps(name)}: {value}" for name, value in values.items())
    return f"{{\n{lines}\n  }}"


def _read_record(kind: type[Record], value: Any, source: str) -> Record:
    try:
        read = kind(**value)
    except TypeError:
        read = None
    hints = get_type_hints(kind)
    values = {} if read is None else vars(read)
    numbers = [value for value in values.values() if isinstance(value, int | float)]
    # Times that are compared must not be 0; costs and errors may be.
    least = sys.float_info.min if kind is LatencyReport else 0
    if (
        read is None
        or not all(_is_a(values[name], hints[name]) for name in hints)
        or not all(least <= number < math.inf for number in numbers)
    ):
        raise DecomposeError(f"{source}: is not as a search writes it")
    return read


def _is_a(value: Any, hint: Any) -> bool:
    # JSON may write a floating number as a whole one.
    return isinstance(value, hint) or (isinstance(value, int) and isinstance(0.0, hint))


def _read_form(value: Any, source: str) -> None:
    try:
        get_form(value)
    except (DecomposeError, TypeError) as error:
        raise DecomposeError(f"{source}: {error}") from None


def _read_choice(value: Any, source: str) -> Choice:
    try:
        return Choice.from_dict(value)
    except DecomposeError as error:
        raise DecomposeError(f"{source}: {error}") from None
