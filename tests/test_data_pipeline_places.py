import numpy as np

from data_pipeline import places


def test_few_voxels_are_all_kept_in_order():
    sample = places.Sample("case lung", most=5)
    sample.add(np.array([7, 3]))
    sample.add(np.array([9]))
    assert sample.voxels().tolist() == [3, 7, 9]


def test_of_many_voxels_a_bounded_number_is_kept_fairly_over_all_that_came():
    sample = places.Sample("case lung", most=1000)
    for start in range(0, 100_000, 10_000):
        sample.add(np.arange(start, start + 10_000))
    kept = sample.voxels()
    assert len(np.unique(kept)) == 1000
    # 100 of each ten thousand are expected, give or take a standard deviation of 9.5.
    counts = np.bincount(kept // 10_000, minlength=10)
    assert counts.min() > 60
    assert counts.max() < 140


def test_the_same_case_and_label_keep_the_same_voxels():
    first, again, other = (places.Sample(seed, most=10) for seed in ("a lung", "a lung", "b lung"))
    for sample in (first, again, other):
        sample.add(np.arange(1000))
    assert first.voxels().tolist() == again.voxels().tolist() != other.voxels().tolist()
