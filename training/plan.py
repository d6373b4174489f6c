"""What a run will do, derived from its settings and its data, before anything is computed."""

import dataclasses
import pathlib
import time
from collections import Counter
from collections.abc import Sequence

import keras

from data_pipeline import augment, cases, labels, raster, split, tta
from data_pipeline.cases import Case
from data_pipeline.errors import InputError
from data_pipeline.spec import InputSpec
from models import zoo
from training import derive, device, fingerprint, geometry_plan
from training.config import TrainConfig
from training.fingerprint import Fingerprint

# What the label covers in each data set; a model must not learn two conventions unawares.
_BEHIND_THE_HEART = "lung includes the region behind the heart and below the diaphragm's dome"
_CONVENTIONS = {
    "kermany_v7": _BEHIND_THE_HEART,
    "hannover_v7": _BEHIND_THE_HEART,
    "ieee_v7": _BEHIND_THE_HEART,
    "gb_infection": _BEHIND_THE_HEART,
    "medseg": "infection is ground glass (1) and consolidation (2), without pleural effusion",
}

# Mirrored answers to average in, at inference: 0.01 to 0.02 of Dice on CT infection for four
# times the work, 0.001 on X-ray lungs (docs/models.md).
_TTA = {"XR": "none", "CT": "flips"}


@dataclasses.dataclass(frozen=True)
class Plan:
    """One training, ready to start."""

    config: TrainConfig
    directory: pathlib.Path
    spec: InputSpec
    cases: tuple[Case, ...]
    splits: dict[str, str]  # case id to train, validation or test
    policy: augment.Policy
    fingerprint: Fingerprint  # of the cases to learn from
    # In float32, with weights that training replaces: to be described, timed and saved.
    network: keras.Model

    @property
    def name(self) -> str:
        """What the run is called among all others: of a fold NAME/fold0, not fold0."""
        return str(self.directory.relative_to(self.config.runs))

    def part(self, name: str) -> list[Case]:
        """Returns the cases of a split."""
        return [case for case in self.cases if self.splits[case.id] == name]


def make(config: TrainConfig) -> list[Plan]:
    """Returns the trainings that a configuration asks for: one, or one a fold.

    What the configuration leaves open is derived from the cases to learn from: of one training
    its own, of a cross-validation all, so that its networks work on equal frames.

    Raises:
      InputError: if the data cannot be read, or holds nothing to learn from.
    """
    chosen = tuple(_select(config))
    units = _units_of_all(config, chosen)
    directory = config.runs / (config.name or _name(config))
    divided = _divided(config, chosen, directory)
    learnt = [c for c in chosen if any(splits[c.id] == "train" for splits in divided.values())]
    if not learnt:
        raise InputError("no case is left to train on; use more data or --use-all")
    if config.resume:
        config = derive.as_before(config, directory)
    found = fingerprint.take(learnt, labels.parse(config.labels), config.seed)
    config = derive.frame(config, found, units)
    free = derive.free_bytes(device.kind())  # before the network takes what there is of a GPU
    config = derive.volume_tile(config, found, free)
    spec = _spec(config, chosen, units, found)
    network = zoo.NETWORKS[config.model](spec)
    config = derive.batch(config, network, free)
    policy = augment.policy(config.modality, spec.shape)
    return [
        Plan(config, where, spec, chosen, splits, policy, found, network)
        for where, splits in divided.items()
    ]


def _divided(
    config: TrainConfig, chosen: Sequence[Case], directory: pathlib.Path
) -> dict[pathlib.Path, dict[str, str]]:
    """Returns the directory of each training with what each case is to it."""
    if config.use_all:
        return {directory: {case.id: "train" for case in chosen}}
    copies = _copies(chosen)
    if not config.folds:
        return {directory: split.assign(chosen, config.seed, copies=copies)}
    fold_of = split.folds(chosen, config.folds, config.seed, copies=copies)
    return {
        directory / f"fold{fold}": {
            id: "test" if number == fold else "train" for id, number in fold_of.items()
        }
        for fold in range(config.folds)
    }


def _select(config: TrainConfig) -> list[Case]:
    wanted = labels.parse(config.labels)
    everything = cases.load(config.data)
    chosen = cases.select(everything, config.modality, wanted)
    if config.units:
        chosen = [case for case in chosen if _units(case) == config.units]
    for label in wanted:
        if not any(case.annotated([label]) for case in chosen):
            raise InputError(
                f"{config.data}: none of {len(everything)} cases is {config.modality}"
                f"{' in ' + config.units if config.units else ''} with {label} annotated"
            )
    return chosen


def _units(case: Case) -> str:
    """Returns what the numbers of a case's file mean, as data_pipeline.read will say."""
    told = case.rescale_slope is not None or case.rescale_intercept is not None
    plain = case.modality == "XR" or case.image.suffix.lower() in raster.SUFFIXES
    return "stored" if plain and not told else "HU"


def _units_of_all(config: TrainConfig, chosen: Sequence[Case]) -> str:
    counts = Counter(_units(case) for case in chosen)
    if len(counts) > 1:
        told = ", ".join(f"{count} in {units}" for units, count in sorted(counts.items()))
        raise InputError(
            f"{config.data}: the {config.modality} cases mix intensities ({told}), which one "
            "network cannot take; choose with --units HU or --units stored"
        )
    return next(iter(counts))


def _spec(config: TrainConfig, chosen: Sequence[Case], units: str, found: Fingerprint) -> InputSpec:
    datasets = sorted({case.dataset for case in chosen})
    plain = InputSpec(
        modality=config.modality,
        labels=labels.parse(config.labels),
        **dataclasses.asdict(geometry_plan.derive(config.geometry(), found.spacing_mm)),
        units=units,
        window=config.window_limits(),
        denoise=config.denoise,
        clahe=config.clahe,
        conventions=tuple(f"{d}: {_CONVENTIONS[d]}" for d in datasets if d in _CONVENTIONS),
    )
    return tta.chosen(plain, _TTA[config.modality] if config.tta == "auto" else config.tta)


def _copies(chosen: Sequence[Case]) -> list[tuple[str, str]]:
    """Returns pairs of the same image where no patient id would keep them together."""
    return split.copies_among([case for case in chosen if not case.patient_id])


def _name(config: TrainConfig) -> str:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    what = config.labels.replace(",", "-").replace(" ", "")
    return f"{config.model}-{config.modality.lower()}-{what}-{stamp}"
