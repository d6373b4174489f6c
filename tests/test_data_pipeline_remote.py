import logging
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from dicom_files import series as write_series

from data_pipeline import cases, check, frames, location, phantom, read, remote
from data_pipeline.errors import InputError
from data_pipeline.spec import InputSpec

SPEC = InputSpec("XR", ("lung", "infection"), (32, 32))
REMOTE = pathlib.Path("s3://chest/xray/manifest.csv")


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    folder = tmp_path_factory.mktemp("local")
    phantom.write_manifest(folder / "xray", count=12)
    write_series(folder / "ct", count=5)
    return folder


@pytest.fixture(scope="module")
def bucket(local):
    """A bucket "chest" on a server on this machine, which holds what lies in `local`."""
    pytest.importorskip("tensorflow_io", reason="object storage is read in the tfio lane")
    import boto3
    from moto.moto_server.threaded_moto_server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    told = {
        "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true", "S3_ENDPOINT": endpoint, "S3_USE_HTTPS": "0",
    }  # fmt: skip
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it tells every request
    with pytest.MonkeyPatch.context() as patch:
        for name, value in told.items():
            patch.setenv(name, value)
        client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
        client.create_bucket(Bucket="chest")
        for file in local.rglob("*"):
            if file.is_file():
                client.upload_file(str(file), "chest", str(file.relative_to(local)))
        yield client
    client.close()
    server.stop()


@pytest.fixture(scope="module")
def google(local, tmp_path_factory):
    """The same bucket where gs:// leads to, on this machine."""
    pytest.importorskip("tensorflow_io", reason="object storage is read in the tfio lane")
    import fake_gcs

    objects = {
        f"chest/{file.relative_to(local)}": file.read_bytes()
        for file in local.rglob("*")
        if file.is_file()
    }
    server, told = fake_gcs.start(tmp_path_factory.mktemp("google"), objects)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in told.items():
            patch.setenv(name, value)
        yield objects
    server.shutdown()
    server.server_close()


def test_a_path_keeps_its_bucket_and_is_told_as_it_was_written():
    assert location.is_remote(REMOTE)
    assert location.name(REMOTE) == "s3://chest/xray/manifest.csv"
    assert location.name(pathlib.Path("gs://a/b.png")) == "gs://a/b.png"
    assert not location.is_remote(pathlib.Path("s3/chest/manifest.csv"))
    assert location.name(pathlib.Path("/data/b.png")) == "/data/b.png"


def test_paths_of_a_manifest_may_be_remote_and_are_relative_to_a_remote_manifest(tmp_path):
    (tmp_path / "manifest.csv").write_text("id,modality,image\na,XR,s3://chest/a.png\nb,XR,b.png\n")
    first, second = cases.load(tmp_path)
    assert location.name(first.image) == "s3://chest/a.png"
    assert second.image == tmp_path / "b.png"
    beside = cases._beside(REMOTE, "../other/c.png")
    assert location.name(beside) == "s3://chest/other/c.png"


def test_the_main_lane_says_which_one_reads_object_storage(monkeypatch, capsys):
    monkeypatch.setattr(remote.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(SystemExit) as left:
        check.main([str(REMOTE)])
    assert left.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("error: s3://chest/xray/manifest.csv lies in object storage, which the")
    assert "make setup-tfio" in told
    assert told.count("\n") == 1


def test_frames_of_a_remote_manifest_are_those_of_the_local_one(bucket, local, tmp_path):
    here, there = (
        frames.open_store(cases.load(manifest), SPEC, tmp_path / name)
        for name, manifest in (("here", local / "xray"), ("there", REMOTE))
    )
    assert len(there) == 12
    for number in range(12):
        np.testing.assert_array_equal(here.image(number), there.image(number))
        np.testing.assert_array_equal(here.target(number), there.target(number))


def test_frames_are_read_anew_when_a_remote_file_has_changed(bucket, local, tmp_path):
    case = cases.load(local / "xray")[0]
    bucket.upload_file(str(case.image), "chest", "changing.png")
    (tmp_path / "manifest.csv").write_text(
        f"id,modality,image,lung_mask\na,XR,s3://chest/changing.png,{case.lung_mask}\n"
    )
    before = frames.open_store(cases.load(tmp_path), SPEC, tmp_path / "cache").image(0)
    other = cases.load(local / "xray")[1]
    bucket.upload_file(str(other.image), "chest", "changing.png")
    after = frames.open_store(cases.load(tmp_path), SPEC, tmp_path / "cache").image(0)
    assert not np.array_equal(before, after)


def test_a_series_below_a_remote_prefix_is_read_as_its_folder(bucket, local):
    here = read.scan(local / "ct", "CT")
    there = read.scan(pathlib.Path("s3://chest/ct"), "CT")
    np.testing.assert_array_equal(here.voxels, there.voxels)
    np.testing.assert_array_equal(here.affine, there.affine)
    assert there.source == "s3://chest/ct"
    numbered = read.scan(pathlib.Path("s3://chest/ct#?"), "CT")
    np.testing.assert_array_equal(here.voxels, numbered.voxels)


def test_frames_of_a_remote_series_are_those_of_its_folder(bucket, local, tmp_path):
    spec = InputSpec("CT", ("lung",), (32, 32), "HU", window=(-1000.0, 400.0))
    here, there = (
        frames.open_store([cases.Case("ct", "CT", folder)], spec, tmp_path / name)
        for name, folder in (("here", local / "ct"), ("there", pathlib.Path("s3://chest/ct")))
    )
    assert len(here) == len(there) > 1
    for number in range(len(here)):
        np.testing.assert_array_equal(here.image(number), there.image(number))


def test_what_is_not_there_is_told_by_its_remote_name(bucket):
    with pytest.raises(InputError, match=r"^s3://chest/no\.png does not exist, or these cred"):
        read.scan(pathlib.Path("s3://chest/no.png"), "XR")
    assert remote.stamp(pathlib.Path("s3://chest/no.png")) is None


def test_what_cannot_be_read_is_told_by_its_remote_name(bucket):
    bucket.put_object(Bucket="chest", Key="broken.png", Body=b"no image")
    with pytest.raises(InputError, match=r"^s3://chest/broken\.png "):
        read.scan(pathlib.Path("s3://chest/broken.png"), "XR")


def test_a_manifest_in_google_cloud_storage_gives_the_frames_of_the_local_one(
    google, local, tmp_path
):
    there = cases.load(pathlib.Path("gs://chest/xray/manifest.csv"))
    assert location.name(there[0].image) == "gs://chest/xray/images/0.png"
    here = frames.open_store(cases.load(local / "xray"), SPEC, tmp_path / "here")
    store = frames.open_store(there, SPEC, tmp_path / "there")
    for number in range(12):
        np.testing.assert_array_equal(here.image(number), store.image(number))
        np.testing.assert_array_equal(here.target(number), store.target(number))


def test_a_series_in_google_cloud_storage_is_read_as_its_folder(google, local):
    here = read.scan(local / "ct", "CT")
    there = read.scan(pathlib.Path("gs://chest/ct"), "CT")
    np.testing.assert_array_equal(here.voxels, there.voxels)
    with pytest.raises(InputError, match=r"^gs://chest/no\.png does not exist"):
        read.scan(pathlib.Path("gs://chest/no.png"), "XR")


def test_few_copies_lie_here_at_once_and_none_afterwards(bucket, monkeypatch, tmp_path):
    monkeypatch.setattr(remote.tempfile, "tempdir", str(tmp_path))
    images = [case.image for case in cases.load(REMOTE)]
    most = 0
    for image, _ in zip(images, remote.staged([[image] for image in images]), strict=True):
        with remote.here(image) as copy:
            assert copy.stat().st_size == remote.stamp(image).size_bytes
        most = max(most, sum(file.is_file() for file in tmp_path.rglob("*")))
    assert 1 <= most <= 10
    assert not remote._waiting
    assert not list(tmp_path.iterdir())


def test_the_commands_check_train_and_score_what_lies_in_a_bucket(
    bucket, monkeypatch, tmp_path, capsys
):
    from evaluation import run as scoring_command
    from models import unet, zoo
    from training import fit
    from training import run as training_command

    monkeypatch.setattr(fit, "_LEAST_STEPS", 2)
    monkeypatch.setitem(zoo.NETWORKS, "unet", lambda spec: unet.build(spec, (4, 6)))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        check.main(["s3://chest/xray", "--out", "report"])
    assert left.value.code == 0
    small = ["--size", "32", "--epochs", "1", "--batch-size", "4", "--name", "it"]
    training_command.main(["--data", "s3://chest/xray/manifest.csv", *small])
    assert scoring_command.main(["runs/it", "threshold", "--out", "results"]) == 0
    assert "s3:/chest/xray/manifest.csv" in pathlib.Path("results/summary.json").read_text()
    assert "12 XR cases of 12 patients" in capsys.readouterr().out


def test_a_process_that_has_spoken_to_a_bucket_ends_with_its_own_exit_code(bucket):
    code = f"""
        from data_pipeline import remote
        import pathlib, sys
        print(remote.stamp(pathlib.Path({str(REMOTE)!r})).size_bytes)
        sys.exit(3)
    """
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(line.strip() for line in code.splitlines())],
        capture_output=True, text=True, check=False, cwd=pathlib.Path(__file__).parents[1],
        env=os.environ,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert done.stderr == ""
    assert int(done.stdout) > 0
