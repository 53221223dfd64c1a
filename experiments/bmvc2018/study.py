"""What is measured of the networks made from a subject, each of them once."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from torch import nn

import decompose
from decompose.compression.layerwise.pipeline import compress_layerwise
from decompose.compression.layerwise.sampling import Sampler
from decompose.data.images import default_workers
from decompose.methods import get_method
from decompose.methods.choices import Choice
from decompose.models.plans import Plan
from decompose.training.finetuning import finetune
from experiments.bmvc2018.bisection import Point, bisect
from experiments.bmvc2018.config import DROP, MASK, MOST_PART, TUNED_TERMS
from experiments.bmvc2018.recipes import energy_kept, treatments
from experiments.bmvc2018.subject import Subject, accuracy
from experiments.common.records import keep

_MOST_HELD = 16
"""Networks: those of one search, so that the best need not be made again."""


class Study:
    """A subject, and what has been measured so far.

    Args:
        subject: the network and its data.
        folder: where what is measured is kept, a file a network.
    """

    def __init__(self, subject: Subject, folder: Path) -> None:
        self.subject, self._folder = subject, folder
        self._networks: dict[str, nn.Module] = {}
        folder.mkdir(parents=True, exist_ok=True)

    @cached_property
    def original(self) -> dict[str, Any]:
        """MACs and accuracies of the network as it is."""
        subject = self.subject
        return self._kept(
            "original",
            lambda: {
                "macs": subject.macs(subject.network),
                "subset": accuracy(subject.network, subject.subset),
                "confirmation": accuracy(subject.network, subject.confirmation),
            },
        )

    def single(self, method: str) -> dict[str, Any] | None:
        """A method at the strength where it loses as much as is allowed, confirmed.

        Args:
            method: ``ND``, ``CP``, ``SD`` or ``CD``.

        Returns:
            ``None`` where it loses more at any strength.
        """

        def measure(strength: float) -> Point:
            name = f"{method} {strength:.6f}"
            decouples = method == "ND"
            strengths = {} if decouples else {method: strength}
            energy = energy_kept(strength) if decouples else None
            return self.measure(name, strengths, energy) | {"strength": strength}

        return self._confirmed(bisect(measure, DROP, self.subject.setting.num_steps))

    def combined(self, recipe: str) -> dict[str, Any] | None:
        """Methods together, each at the same part of the strength that it has alone; confirmed.

        Args:
            recipe: ``CD+SD+ND`` and the like. Network decoupling, last if at all, keeps the energy
                that serves best.

        Returns:
            ``None`` where they lose more at any strength.
        """
        *methods, last = recipe.split("+")
        methods = methods if last == "ND" else [*methods, last]
        if recipe in methods:
            return self.single(recipe)
        setting = self.subject.setting
        alone = {}
        for method in methods:
            found = self.single(method)
            alone[method] = 2.0**-setting.num_steps if found is None else found["strength"]

        def measure(energy: float | None, share: float) -> Point:
            part = share * MOST_PART
            strengths = {name: min(1.0, part * strength) for name, strength in alone.items()}
            texts = [f"{strength:.6f}" for strength in strengths.values()]
            name = " ".join([recipe, *([] if energy is None else [f"{energy:g}"]), *texts])
            return self.measure(name, strengths, energy) | {"part": part}

        energies = setting.inner_energies if last == "ND" else (None,)
        searches = [bisect(partial(measure, e), DROP, setting.num_steps - 1) for e in energies]
        points = [point for point in searches if point is not None]
        return self._confirmed(min(points, key=lambda point: point["macs"], default=None))

    def measure(
        self, name: str, strengths: Mapping[str, float], energy: float | None
    ) -> dict[str, Any]:
        """MACs and accuracy on the subset.

        Args:
            name: of the network.
            strengths: by method, as ``recipes.treatments`` takes them.
            energy: likewise.
        """
        kept = self.subject.setting.criterion

        def measure() -> dict[str, Any]:
            start = time.perf_counter()
            small = self._made(name, strengths, energy)
            made_s = time.perf_counter() - start
            reached = accuracy(small, self.subject.subset)
            return {
                "name": name,
                "strengths": dict(strengths),
                "energy": energy,
                "macs": self.subject.macs(small),
                "subset": reached,
                "drop": self.original["subset"][kept] - reached[kept],
                "made_s": made_s,
            }

        return self._kept(name, measure)

    def decoupled(self, method: str, num_terms: int) -> dict[str, Any]:
        """MACs and accuracy of network decoupling at a number of terms, ``MASK`` left dense."""

        def measure() -> dict[str, Any]:
            small = self._decoupled(method, num_terms)
            return {
                "macs": self.subject.macs(small),
                "subset": accuracy(small, self.subject.subset),
            }

        return self._kept(f"{method} {num_terms}", measure)

    def finetuned(self) -> dict[str, Any]:
        """The original, ND as ``single`` found it, and with few terms, before and after finetuning."""
        found = self.single("ND")
        # Finetuned as well, since its convolutions have never seen these images either.
        networks: dict[str, Callable[[], nn.Module]] = {"original": lambda: self.subject.network}
        if found is not None:
            networks["ND at the drop"] = partial(
                self._made, found["name"], found["strengths"], found["energy"]
            )
        for terms in TUNED_TERMS:
            networks[f"PW+DW, T={terms}"] = partial(self._decoupled, "pw_dw", terms)
        return {
            name: self._kept(f"{name} tuned", partial(self._tune, make))
            for name, make in networks.items()
        }

    def _tune(self, make: Callable[[], nn.Module]) -> dict[str, Any]:
        subject, setting = self.subject, self.subject.setting
        small, images = make(), subject.training
        before = accuracy(small, subject.confirmation)
        if images is None:
            return {"macs": subject.macs(small), "before": before, "after": None}
        if 0 < setting.num_tuned < len(images):
            images = images.subset(setting.num_tuned)
        recipe = replace(setting.recipe, workers=default_workers())
        tuned = finetune(
            small, images, teacher=subject.network, recipe=recipe, augment=subject.augment
        )
        after = accuracy(tuned.network, subject.confirmation)
        return {"macs": subject.macs(small), "before": before, "after": after}

    def _decoupled(self, method: str, num_terms: int) -> nn.Module:
        subject = self.subject
        return decompose.apply(masked_plan(subject, method, num_terms), subject.network)

    @cached_property
    def _sampler(self) -> Sampler:
        subject = self.subject
        return Sampler(
            subject.network,
            subject.calibration,
            list(subject.layers.values()),
            num_positions=subject.setting.num_places,
            # Small images fit into one batch, which spares a pass for each layer.
            batch_size=subject.setting.num_calibrated if subject.setting.size < 64 else 16,
        )

    def _confirmed(self, point: Point | None) -> dict[str, Any] | None:
        if point is None:
            return None

        def measure() -> dict[str, float]:
            small = self._made(point["name"], point["strengths"], point["energy"])
            return accuracy(small, self.subject.confirmation)

        return {**point, "confirmation": self._kept(f"{point['name']} confirmed", measure)}

    def _made(self, name: str, strengths: Mapping[str, float], energy: float | None) -> nn.Module:
        """The network, if it is one of the last few as it was made then."""
        if name not in self._networks:
            subject = self.subject
            chosen = treatments(strengths, energy, subject.convs)
            self._networks[name] = compress_layerwise(
                {subject.layers[layer]: treatment for layer, treatment in chosen.items()},
                subject.network,
                self._sampler,
                ridge=subject.setting.ridge,
                rounds=subject.setting.num_rounds,
            )
        for old in list(self._networks)[:-_MOST_HELD]:
            del self._networks[old]
        return self._networks[name]

    def _kept(self, name: str, measure: Callable[[], Any]) -> Any:
        """What was measured before, or is now, and is kept."""
        path = self._folder / f"{name.replace(' ', '_')}.json"
        if not path.exists():
            keep(measure(), path)
        return json.loads(path.read_text(encoding="utf-8"))


def masked_plan(subject: Subject, method: str, num_terms: int) -> Plan:
    """The same number of terms in each layer, or as many as make it exact, ``MASK`` left dense."""
    bound = get_method(method).max_rank
    return Plan(
        {
            subject.layers[name]: Choice(method, min(num_terms, bound(conv)))
            for name, conv in subject.convs.items()
            if name not in MASK
        }
    )
