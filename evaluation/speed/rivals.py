"""The loaders of MONAI and TorchIO, set up for the work that evaluation.speed.loader describes.

Needs the extra `rivals`. Each is written as its documentation advises, with the settings that
are fastest here: no metadata tracking, one warp for affine and elastic parts where the library
has one, decoded images kept in memory where the library can keep them.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch  # type: ignore[import-not-found]

from data_pipeline import augment
from evaluation.speed.job import BATCH, SIDE, Job

_POLICY = augment.XRAY
_DEGREES = _POLICY.rotate_degrees
# Ours scales by exp(+-scale) and stretches by exp(+-stretch); as a factor of one axis:
_SCALE = _POLICY.scale + _POLICY.stretch
_SHIFT = _POLICY.shift * SIDE  # pixels
_ELASTIC = _POLICY.elastic * SIDE  # pixels
_BLUR_SIGMA = math.sqrt(0.5)  # pixels; that of the binomial kernel (1, 2, 1) / 4


def _files(job: Job) -> list[dict[str, str]]:
    return [{"image": str(case.image), "mask": str(case.lung_mask)} for case in job.cases]


def _for_ever(loader: Any) -> Iterator[object]:
    while True:
        yield from loader


def _monai_transforms() -> tuple[list[Any], list[Any]]:
    """Returns what is done to a file once, and what is done to each tile."""
    from monai import data, transforms  # type: ignore[import-not-found]

    both = ["image", "mask"]
    reader = data.PILReader(converter=lambda image: image.convert("L"))
    once = [
        transforms.LoadImaged(both, reader=reader),
        transforms.EnsureChannelFirstd(both, channel_dim="no_channel"),
        transforms.ScaleIntensityRangePercentilesd("image", 0.5, 99.5, 0, 1, clip=True),
        transforms.Resized(both, (SIDE, SIDE), mode=("area", "nearest")),
        transforms.Lambdad("mask", lambda mask: (mask > 0).float()),
    ]
    return once, monai_augmentation(_POLICY, (SIDE, SIDE), ("image", "mask"))


def monai_augmentation(
    policy: augment.Policy, shape: tuple[int, ...], keys: tuple[str, str]
) -> list[Any]:
    """Returns what data_pipeline.augment does to a slice, in MONAI's own transforms.

    Args:
      policy: how far.
      shape: of the slice: (rows, cols).
      keys: of the image and of its mask in a sample, both channels first.
    """
    from monai import transforms

    image, _ = keys
    # Ours scales by exp(+-scale) and stretches by exp(+-stretch); as a factor of one axis:
    scale = policy.scale + policy.stretch
    flips = [transforms.RandFlipd(keys, 0.5, axis) for axis in (0, 1) if policy.flip[axis]]
    # Of 1, 2 and 3 quarter turns each as often as none.
    turns = [transforms.RandRotate90d(keys, 0.75, max_k=3)] if policy.quarter_turns else []
    return [
        *flips,
        *turns,
        transforms.Rand2DElasticd(
            keys,
            spacing=tuple(side // policy.elastic_cells for side in shape),
            magnitude_range=(0, policy.elastic * min(shape)),
            prob=1,
            rotate_range=math.radians(policy.rotate_degrees),
            scale_range=(scale, scale),
            translate_range=tuple(policy.shift * side for side in shape),
            mode="bilinear",
            padding_mode="zeros",
        ),
        transforms.RandScaleIntensityFixedMeand(image, prob=1, factors=policy.contrast),
        transforms.RandShiftIntensityd(image, prob=1, offsets=policy.brightness),
        transforms.RandAdjustContrastd(
            image, prob=1, gamma=(math.exp(-policy.gamma), math.exp(policy.gamma))
        ),
        transforms.RandGaussianSmoothd(
            image,
            prob=policy.blur,
            sigma_x=(_BLUR_SIGMA, _BLUR_SIGMA),
            sigma_y=(_BLUR_SIGMA, _BLUR_SIGMA),
        ),
        transforms.RandGaussianNoised(image, prob=1, std=policy.noise),
    ]


def _monai(job: Job, dataset: Callable[[Any], Any]) -> Iterator[object]:
    from monai import data, transforms

    data.set_track_meta(False)
    torch.set_num_threads(max(1, job.cores - job.workers))
    once, each = _monai_transforms()
    return _for_ever(
        data.DataLoader(
            dataset(transforms.Compose(once + each)),
            batch_size=BATCH,
            shuffle=True,
            drop_last=True,
            num_workers=job.workers,
            persistent_workers=job.workers > 0,
        )
    )


_cached: dict[str, Any] = {}


def monai_cache(job: Job, *, warm: bool) -> Iterator[object]:
    """MONAI's CacheDataset, which keeps decoded images in memory, with its DataLoader."""
    from monai import data

    def dataset(transform: Any) -> Any:
        if not warm:
            _cached["monai"] = data.CacheDataset(
                _files(job), transform, num_workers=job.cores, progress=False
            )
        return _cached["monai"]

    return _monai(job, dataset)


def monai_persistent(job: Job, *, warm: bool) -> Iterator[object]:
    """MONAI's PersistentDataset, which keeps them on disk."""
    from monai import data

    del warm  # what the first epoch wrote is there
    return _monai(job, lambda t: data.PersistentDataset(_files(job), t, cache_dir=job.folder))


def torchio_queue(job: Job, *, warm: bool) -> Iterator[object]:
    """TorchIO's Queue of patches; when warm, over subjects that are in memory already."""
    import torchio as tio  # type: ignore[import-not-found]

    torch.set_num_threads(max(1, job.cores - job.workers))
    prepare = tio.Compose(
        [
            tio.Lambda(_grey, types_to_apply=[tio.INTENSITY]),
            tio.Lambda(_foreground, types_to_apply=[tio.LABEL]),
            tio.Resize((SIDE, SIDE, 1)),
            tio.RescaleIntensity((0, 1), percentiles=(0.5, 99.5)),
        ]
    )
    each = tio.Compose(_torchio_transforms(tio))
    subjects = [
        tio.Subject(image=tio.ScalarImage(f["image"]), mask=tio.LabelMap(f["mask"]))
        for f in _files(job)
    ]
    if warm:
        subjects = [prepare(subject) for subject in subjects]
    dataset = tio.SubjectsDataset(subjects, each if warm else tio.Compose([prepare, each]))
    queue = tio.Queue(
        dataset,
        max_length=4 * BATCH,
        samples_per_volume=1,
        sampler=tio.data.UniformSampler((SIDE, SIDE, 1)),
        num_workers=job.workers,
    )
    # The queue has the workers; its loader must have none.
    return _for_ever(tio.SubjectsLoader(queue, batch_size=BATCH, num_workers=0, drop_last=True))


# Functions of their own, since the queue's workers are sent them and a lambda cannot be pickled.
def _grey(image: torch.Tensor) -> torch.Tensor:
    return image[:1].float()


def _foreground(mask: torch.Tensor) -> torch.Tensor:
    return (mask[:1] > 0).float()


def _contrast(image: torch.Tensor) -> torch.Tensor:
    factor, offset = torch.empty(2).uniform_(-1, 1)
    middle = image.mean()
    image = (image - middle) * torch.exp(_POLICY.contrast * factor) + middle
    return (image + _POLICY.brightness * offset).clamp(0, 1)


def _torchio_transforms(tio: Any) -> list[Any]:
    return [
        tio.RandomFlip(axes=0, flip_probability=0.5),
        tio.RandomAffineElasticDeformation(
            affine_kwargs={
                "scales": (1 - _SCALE, 1 + _SCALE, 1 - _SCALE, 1 + _SCALE, 1, 1),
                "degrees": (0, 0, 0, 0, -_DEGREES, _DEGREES),
                "translation": (-_SHIFT, _SHIFT, -_SHIFT, _SHIFT, 0, 0),
                "default_pad_value": 0,
            },
            elastic_kwargs={
                "num_control_points": (_POLICY.elastic_cells + 4, _POLICY.elastic_cells + 4, 5),
                "max_displacement": (_ELASTIC, _ELASTIC, 0),
            },
        ),
        tio.Lambda(_contrast, types_to_apply=[tio.INTENSITY]),
        tio.RandomGamma(log_gamma=(-_POLICY.gamma, _POLICY.gamma)),
        tio.RandomBlur(
            std=(_BLUR_SIGMA, _BLUR_SIGMA, _BLUR_SIGMA, _BLUR_SIGMA, 0, 0), p=_POLICY.blur
        ),
        tio.RandomNoise(std=(0, _POLICY.noise)),
    ]


LOADERS: Mapping[str, Callable[..., Iterator[object]]] = {
    "monai-cache": monai_cache,
    "monai-persistent": monai_persistent,
    "torchio-queue": torchio_queue,
}
