import hashlib
import pathlib
from collections import Counter

import pytest

from data_pipeline import cases, phantom, split
from data_pipeline.cases import Case
from data_pipeline.errors import InputError

MASK = pathlib.Path("mask.png")


def case(number, patient="", dataset="", diagnosis="", given="", infection=None):
    return Case(
        id=f"c{number}",
        modality="XR",
        image=pathlib.Path(f"{number}.png"),
        lung_mask=MASK,
        infection_mask=infection,
        dataset=dataset,
        diagnosis=diagnosis,
        patient_id=patient,
        split=given,
    )


def test_no_patient_is_in_two_splits():
    many = [case(n, patient=f"p{n % 17}") for n in range(100)]
    splits = split.assign(many, seed=0)
    assert {len({splits[c.id] for c in many if c.patient == f"p{p}"}) for p in range(17)} == {1}
    assert set(splits) == {c.id for c in many}


def test_the_sample_is_divided_70_15_15_and_each_source_with_it():
    chosen = cases.select(cases.load(), "XR", ("lung",))
    splits = split.assign(chosen, seed=0)
    assert Counter(splits.values()) == {"train": 110, "validation": 24, "test": 23}
    normal = Counter(splits[c.id] for c in chosen if c.diagnosis == "normal")
    for name, expected in {"train": 42, "validation": 9, "test": 9}.items():
        assert abs(normal[name] - expected) <= 1
    hannover = Counter(splits[c.id] for c in chosen if c.dataset == "hannover_v7")
    assert abs(hannover["test"] - 4.2) <= 1
    assert abs(hannover["validation"] - 4.2) <= 1


def test_every_stratum_is_divided_as_the_shares_say():
    many = [
        case(n, dataset="a" if n < 40 else "b", infection=MASK if n % 2 else None)
        for n in range(80)
    ]
    splits = split.assign(many, seed=3)
    for dataset in "ab":
        for infection in (None, MASK):
            stratum = [c for c in many if c.dataset == dataset and c.infection_mask == infection]
            count = Counter(splits[c.id] for c in stratum)
            assert abs(count["train"] - 14) <= 1
            assert abs(count["validation"] - 3) <= 1
            assert abs(count["test"] - 3) <= 1


def test_the_split_does_not_depend_on_the_order_of_rows():
    many = [case(n, patient=f"p{n // 2}", diagnosis="ab"[n % 3 == 0]) for n in range(40)]
    assert split.assign(many, seed=5) == split.assign(many[::-1], seed=5)
    assert split.folds(many, 5, seed=5) == split.folds(many[::-1], 5, seed=5)


def test_the_split_is_the_same_on_every_machine():
    many = [case(n, patient=f"p{n}") for n in range(5)]
    order = sorted(many, key=lambda c: hashlib.sha256(f"7\n{c.patient}".encode()).hexdigest())
    # Shares .7 .15 .15 of 1, 2, 3, 4, 5 seen: furthest behind are train (.7), train (.4),
    # validation (.45, first of two), train (.8) and test (.75).
    expected = ["train", "train", "validation", "train", "test"]
    assert split.assign(many, seed=7) == {
        c.id: name for c, name in zip(order, expected, strict=True)
    }


def test_another_seed_gives_another_split():
    many = [case(n) for n in range(40)]
    assert split.assign(many, seed=0) != split.assign(many, seed=1)


def test_a_given_split_is_kept_and_holds_for_the_whole_patient():
    many = [case(n, patient=f"p{n % 10}", given="test" if n == 3 else "") for n in range(20)]
    splits = split.assign(many, seed=0)
    assert splits["c3"] == splits["c13"] == "test"


def test_validation_is_taken_from_train_where_the_manifest_knows_only_train_and_test():
    many = [case(n, given="test" if n < 5 else "train") for n in range(25)]
    splits = split.assign(many, seed=0)
    assert all(splits[f"c{n}"] == "test" for n in range(5))
    assert Counter(splits.values()) == {"train": 16, "validation": 4, "test": 5}


def test_a_complete_given_split_is_kept_as_it_is():
    many = [case(n, given=cases.SPLITS[n % 3]) for n in range(9)]
    assert split.assign(many, seed=0) == {c.id: c.split for c in many}


def test_a_patient_whom_the_manifest_divides_is_refused():
    many = [case(0, patient="p", given="train"), case(1, patient="p", given="test")]
    with pytest.raises(InputError, match=r"into test and train: c0, c1"):
        split.assign(many, seed=0)


def test_copies_of_an_image_stay_together():
    many = [case(n) for n in range(30)]
    chain = [(f"c{n}", f"c{n + 1}") for n in range(0, 12, 2)] + [("c1", "c2")]
    splits = split.assign(many, seed=0, copies=chain)
    assert splits["c0"] == splits["c1"] == splits["c2"] == splits["c3"]
    assert all(splits[one] == splits[other] for one, other in chain)


def test_three_patients_make_three_splits_and_two_are_too_few():
    three = [case(n) for n in range(3)]
    assert Counter(split.assign(three, seed=0).values()) == {"train": 1, "validation": 1, "test": 1}
    with pytest.raises(InputError, match=r"2 patients cannot be divided into 3 parts"):
        split.assign(three[:2], seed=0)


def test_a_share_of_zero_leaves_that_split_empty():
    splits = split.assign([case(n) for n in range(10)], seed=0, shares=(0.8, 0.2, 0.0))
    assert Counter(splits.values()) == {"train": 8, "validation": 2}


def test_shares_that_do_not_add_up_are_refused():
    with pytest.raises(InputError, match=r"add up to 1; got \(0.7, 0.7, 0.7\)"):
        split.assign([case(n) for n in range(10)], seed=0, shares=(0.7, 0.7, 0.7))


def test_each_patient_is_in_one_fold_and_folds_are_of_one_size():
    many = [case(n, patient=f"p{n // 2}", diagnosis="ab"[n < 20]) for n in range(50)]
    folds = split.folds(many, 5, seed=0)
    assert Counter(folds.values()) == {fold: 10 for fold in range(5)}
    assert all(folds[f"c{n}"] == folds[f"c{n + 1}"] for n in range(0, 50, 2))


def test_more_folds_than_patients_are_refused():
    many = [case(n, patient="ab"[n % 2]) for n in range(10)]
    with pytest.raises(InputError, match=r"2 patients cannot be divided into 5 parts"):
        split.folds(many, 5, seed=0)
    with pytest.raises(InputError, match=r"at least 2 folds; got 1"):
        split.folds(many, 1, seed=0)


def test_a_split_is_read_as_it_was_saved(tmp_path):
    many = [case(n, patient=f"p,{n}") for n in range(12)]
    splits = split.assign(many, seed=0)
    path = tmp_path / "new" / "splits.csv"
    split.save(path, many, splits)
    assert split.load(path) == splits
    assert path.read_text(encoding="utf-8").splitlines()[:2] == [
        "case_id,patient_id,split",
        f'c0,"p,0",{splits["c0"]}',
    ]
    assert [p.name for p in path.parent.iterdir()] == ["splits.csv"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"needs the columns case_id and split"),
        ("id,split\nc0,train\n", r"needs the columns case_id and split"),
        ("case_id,split\nc0,dev\n", r"split is 'dev'; known: train, validation, test"),
        ("case_id,split\nc0,train\nc0,test\n", r"case 'c0' stands twice"),
    ],
)
def test_a_file_that_is_no_split_is_refused(tmp_path, text, message):
    path = tmp_path / "splits.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        split.load(path)


def test_a_missing_split_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"splits.csv is missing"):
        split.load(tmp_path / "splits.csv")


def test_the_command_writes_splits_and_tells_what_is_in_each(phantoms, tmp_path, capsys):
    out = tmp_path / "splits.csv"
    split.main([str(phantoms), "--out", str(out), "--seed", "3"])
    told = capsys.readouterr().out
    assert "train: 8 cases, 8 patients, lung 8, infection" in told
    assert "patients unknown: 0 cases" in told
    assert split.load(out) == split.assign(cases.load(phantoms), seed=3)


def test_the_command_writes_folds(phantoms, tmp_path, capsys):
    out = tmp_path / "folds.csv"
    split.main([str(phantoms), "--out", str(out), "--folds", "4"])
    rows = [line.split(",") for line in out.read_text(encoding="utf-8").splitlines()]
    assert rows[0] == ["case_id", "patient_id", "fold"]
    assert Counter(row[2] for row in rows[1:]) == {"0": 3, "1": 3, "2": 3, "3": 3}
    assert "fold 0: 3 cases" in capsys.readouterr().out


def test_the_command_keeps_copies_of_an_image_together(tmp_path, capsys):
    phantoms = phantom.write_manifest(tmp_path / "phantoms", count=12)
    lines = phantoms.read_text(encoding="utf-8").splitlines()
    # Ten more patients whose images are those of the first ten.
    twins = [line.replace(",p", ",twin").replace("phantom-", "twin-", 1) for line in lines[1:11]]
    manifest = phantoms.parent / "with twins.csv"
    manifest.write_text("\n".join(lines + twins) + "\n", encoding="utf-8")
    out = tmp_path / "splits.csv"
    split.main([str(manifest), "--out", str(out)])
    splits = split.load(out)
    assert all(splits[f"phantom-{n}"] == splits[f"twin-{n}"] for n in range(10))
    assert "copies of one image kept together: " in capsys.readouterr().out


def test_the_command_tells_a_users_mistake_in_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        split.main([str(tmp_path / "none.csv")])
    assert caught.value.code == 2
    assert "none.csv does not exist" in capsys.readouterr().err
