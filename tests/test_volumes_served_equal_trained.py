"""A real CT volume, from the training command to served masks: 3D, 2.5D and tiles of slices."""

import numpy as np
import pytest

from data_pipeline import cases, read
from evaluation import run as evaluation_run
from models import unet, zoo
from serving import export, segment, server_process
from training import fit
from training import run as training_run

# Keras, saving a network; see setup.cfg.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

VOLUME = next(case for case in cases.load() if case.id == "cip-ct-64")


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        ["--tile", "8,32,32", "--spacing", "8,4,4"],
        ["--size", "64", "--neighbours", "1"],
        ["--size", "64", "--tile", "32,48"],
    ],
    ids=["3D", "2.5D", "2D tiles"],
)
def test_a_volume_is_trained_on_evaluated_exported_and_served_with_one_mask(
    flags, tmp_path, monkeypatch
):
    monkeypatch.setattr(fit, "_LEAST_STEPS", 10)
    monkeypatch.setitem(zoo.NETWORKS, "unet", lambda spec: unet.build(spec, (4, 6)))
    run, name = tmp_path / "runs" / "volumes", "volumes"
    places = ["--runs", str(run.parent), "--cache", str(tmp_path / "cache"), "--name", run.name]
    short = ["--use-all", "--epochs", "1", "--batch-size", "2", "--precision", "float32"]
    training_run.main(["--modality", "CT", *flags, *places, *short])
    results = tmp_path / "results"
    all_of_it = ["--data", str(cases.SAMPLE), "--split", "all", "--save-masks"]
    evaluation_run.main([str(run), *all_of_it, "--out", str(results)])
    evaluated = read.classes(results / "masks" / run.name / f"{VOLUME.id}_lung.nii.gz") > 0
    assert evaluated.shape == (79, 64, 64)
    assert 0 < evaluated.mean() < 1

    export.main([str(run), "--out", str(tmp_path / "exports" / name), "--cases", "1"])
    with server_process.embedded(tmp_path / "exports" / name, name) as addresses:
        out = ["--out", str(tmp_path / "out"), "--model", name, "--server", addresses["grpc"]]
        with pytest.raises(SystemExit) as ended:
            segment.main([str(VOLUME.image), *out])
    assert not ended.value.code
    served = read.classes(tmp_path / "out" / "ct-64_lung.nii.gz") > 0
    np.testing.assert_array_equal(served, evaluated)
