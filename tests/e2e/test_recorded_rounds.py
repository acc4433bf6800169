"""Rounds that are recorded because a file says so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.digits_federation import write_federation
from support.photon_text import write_config, write_text
from support.prophet_federation import write_prophet

import hocket
from hocket.fl.core.errors import ConfigError
from hocket.fl.core.store import Key
from hocket.fl.photon.config import load_photon_config
from hocket.fl.store.access import MODEL, SERVER, UPDATE
from hocket.fl.store.workloads.workload import Question
from hocket.photon import train_photon
from hocket.runtime.artifact import load_artifact
from hocket.store_parts import open_round_store

STORE = '\n[store]\naddress = "history"\n'


def check(folder: Path, job: str, model: Path, digest: str) -> None:
    """Check that the last model is the one that came out, and is the mean of its updates."""
    trained = load_artifact(model).weights
    with open_round_store(str(folder / "history")) as store:
        history = store.history
        last = history.catalog.rounds(job, MODEL)[-1]
        key = Key(job, last, SERVER, MODEL)
        assert history.catalog.entry(key).provenance == {"artifact": digest}
        for name, array in history.arrays(key).items():
            if name in trained:
                np.testing.assert_array_equal(array, trained[name])
        parents = history.catalog.parents(key)
        assert sum(parent.weight for parent in parents) == pytest.approx(1)
        assert {parent.key for parent in parents} == {
            entry.key for entry in history.catalog.entries(job, (last, last), kind=UPDATE)
        }
        assert history.verify() == []
        if len(parents) > 1:
            found = store.ask("cosine-scheduling", Question(job)).values["cosines"]
            assert max(found.values()) > 0.5


def test_a_federation_records_its_rounds(tmp_path: Path) -> None:
    result = hocket.federate(write_federation(tmp_path, rounds=2, more=STORE))
    check(tmp_path, "digits", result.model, result.artifact_digest)
    with open_round_store(str(tmp_path / "history")) as store:
        catalog = store.history.catalog
        assert catalog.rounds("digits", MODEL) == [0, 1, 2]
        (update, *_) = catalog.entries("digits", kind=UPDATE)
        assert update.metrics["num_examples"] > 0
        # What came out is the weighted mean of what is recorded.
        key = Key("digits", 2, SERVER, MODEL)
        made = store.history.arrays(key)
        parents = [(each.weight, store.history.arrays(each.key)) for each in catalog.parents(key)]
        for name, array in made.items():
            mean = sum(weight * arrays[name].astype(np.float64) for weight, arrays in parents)
            np.testing.assert_allclose(array, mean, rtol=1e-4, atol=1e-6)


def test_photon_records_its_rounds(tmp_path: Path) -> None:
    write_text(tmp_path)
    path = write_config(tmp_path, "run", ("rounds = 3", "rounds = 1"), more=STORE)
    result = train_photon(path)
    digest = load_artifact(tmp_path / "run" / "model.hkt").digest
    check(tmp_path, load_photon_config(path).run.name, result.model, digest)


def test_fedprophet_records_its_rounds(tmp_path: Path) -> None:
    path = write_prophet(tmp_path, rounds=1)
    path.write_text(path.read_text(encoding="utf-8") + STORE, encoding="utf-8")
    result = hocket.federate(path)
    with open_round_store(str(tmp_path / "history")) as store:
        catalog = store.history.catalog
        assert catalog.rounds("robust-digits", MODEL)[0] == 0
        assert catalog.entries("robust-digits", kind=UPDATE)
        for entry in catalog.entries("robust-digits"):
            assert entry.provenance == {"artifact": result.artifact_digest}
        assert store.history.verify() == []


def test_a_store_that_lacks_its_catalog_is_refused(tmp_path: Path) -> None:
    path = write_federation(tmp_path, more='\n[store]\naddress = "s3://bucket/history"\n')
    with pytest.raises(ConfigError, match="name it by --catalog"):
        hocket.federate(path)
