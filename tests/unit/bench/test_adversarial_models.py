"""Models of the bench of adversarial training: their narrow copies, and how they are cut."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from adversarial.models import ARCHITECTURES, compile_architecture

from hocket.fl.fat.baselines.widths import Widths, choose_units, cut_out


@pytest.mark.parametrize("name", ["vgg", "vit"])
def test_a_narrow_copy_runs_on_what_is_cut_out_of_the_whole(name: str) -> None:
    architecture = ARCHITECTURES[name]
    whole = compile_architecture(name).spans()
    narrow = compile_architecture(name, share=architecture.narrow[-1]).spans()
    parameters = whole.parameters()
    widths = Widths.parse(architecture.groups(parameters), parameters)
    widths.check_copy(narrow.parameters(), parameters)
    totals, counts = widths.counts(parameters), widths.counts(narrow.parameters())
    assert all(counts[group] < totals[group] for group in totals)
    units = choose_units("random", counts, totals, round_number=1, device_id="d0", seed=0)
    narrow.load_parameters(cut_out(parameters, widths, units))
    pixels = np.random.default_rng(0).uniform(0, 1, (2, 1, 28, 28)).astype(np.float32)
    assert np.isfinite(narrow.features("", "", pixels)).all()


def test_models_may_be_cut_atom_by_atom() -> None:
    model = compile_architecture("small")
    cascade = model.one_by_one()
    assert len(cascade) > len(model.cascade(model.whole_footprint().peak_bytes)) == 1
    assert all(one.stop == other.start for one, other in pairwise(cascade.modules))
    owned = frozenset().union(*(module.owned for module in cascade.modules))
    assert owned == model.spans().parameters().keys()
