"""The state of a run is written and read back."""

from dataclasses import asdict

from decompose.training.state import Epoch, TrainingState


def standing(*scores: float) -> TrainingState:
    return TrainingState(history=[Epoch(1.0, None, score) for score in scores])


def test_it_comes_back_from_what_is_kept() -> None:
    one = TrainingState(2, 3, 0.5, [Epoch(0.5, 0.25, 0.75)], "digest", {"a.png": "is no image"})
    assert TrainingState.of(asdict(one)) == one


def test_the_best_is_the_last_of_equals_and_patience_counts_from_the_first() -> None:
    assert standing(0.1, 0.5, 0.5, 0.3).best == 2
    assert not TrainingState().is_exhausted(1)
    assert not standing(0.1, 0.5, 0.5).is_exhausted(None)
    assert standing(0.1, 0.5, 0.5).is_exhausted(1)
    assert not standing(0.1, 0.5, 0.5).is_exhausted(2)


def test_steps_and_epochs_are_counted() -> None:
    one = TrainingState()
    one.end_step(2.0, 0.5)
    one.end_step(4.0, 1.0)
    assert (one.step, one.means()) == (2, (3.0, 0.75))
    one.end_epoch(Epoch(3.0, 0.75, 0.5))
    assert one == TrainingState(1, 0, history=[Epoch(3.0, 0.75, 0.5)])
