"""Trains a network of MONAI on the frames, the split and the clock of one of our runs.

    python -m evaluation.speed.monai_training --run RUN --network BasicUNet --minutes 4 --out DIR

Same frames, same batch size, same kinds of augmentation, same loss (Dice + cross-entropy), AdamW
with warm-up and cosine, and the weights of the best validation Dice: what differs is the library
and its network. Validation does not count against the minutes. Leaves `history.csv` (elapsed_s,
dice of the validation frames) and `masks/`, the test cases outlined on their own grid, which
`evaluation.run --masks` scores like anybody's.
"""

import argparse
import copy
import csv
import dataclasses
import json
import math
import pathlib
import time
from collections.abc import Callable, Iterator

import monai
import numpy as np
import torch
from monai import losses, transforms
from monai.networks import nets

from data_pipeline import batches, frames, inference, split, write
from data_pipeline import cases as case_files
from data_pipeline import spec as specs
from data_pipeline.cases import Case
from data_pipeline.spec import InputSpec

_HIGHEST_RATE = 2e-3
_WARM_UP = 0.03
_VALIDATIONS = 16  # over the training, evenly in time


def network(name: str, spec: InputSpec) -> torch.nn.Module:
    """Returns an untrained network: MONAI's BasicUNet, or DynUNet as nnU-Net sets it up in 2D."""
    if name == "BasicUNet":
        made: torch.nn.Module = nets.BasicUNet(
            spatial_dims=2, in_channels=spec.channels, out_channels=len(spec.labels)
        )
        return made
    if name == "DynUNet":
        levels = 6
        return nets.DynUNet(
            spatial_dims=2,
            in_channels=spec.channels,
            out_channels=len(spec.labels),
            kernel_size=[3] * levels,
            strides=[1] + [2] * (levels - 1),
            upsample_kernel_size=[2] * (levels - 1),
            deep_supervision=True,
            deep_supr_num=2,
        )
    raise ValueError(f"unknown network {name}; known: BasicUNet, DynUNet")


def augmentation() -> transforms.Compose:
    """Returns what data_pipeline.augment does, in MONAI's own transforms."""
    keys = ("image", "target")
    return transforms.Compose(
        [
            transforms.RandFlipd(keys, prob=0.5, spatial_axis=1),
            transforms.RandAffined(
                keys,
                prob=1.0,
                rotate_range=math.radians(15),
                scale_range=0.2,
                translate_range=20,
                padding_mode="zeros",
                mode="bilinear",
            ),
            transforms.RandScaleIntensityd("image", factors=0.25, prob=0.5),
            transforms.RandShiftIntensityd("image", offsets=0.15, prob=0.5),
            transforms.RandAdjustContrastd("image", gamma=(0.7, 1.4), prob=0.5),
            transforms.RandGaussianSmoothd("image", (0.5, 1.0), (0.5, 1.0), prob=0.25),
            transforms.RandGaussianNoised("image", std=0.04, prob=0.5),
        ]
    )


def _samples(store: frames.Store, epoch: np.ndarray, seed: int) -> Iterator[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    augment = augmentation().set_random_state(seed)
    while True:
        for index in rng.permutation(epoch):
            image, target = _pair(store, int(index))
            yield augment({"image": image, "target": target})


def _pair(store: frames.Store, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns image and target, channels first, as torch has them; what nobody outlined is 0."""
    target = store.target(index).astype(np.float32)
    known = target != frames.NOT_ANNOTATED
    image = store.image(index).astype(np.float32)
    return np.moveaxis(image, -1, 0), np.moveaxis(known * target / frames.FULL, -1, 0)


def _rate(progress: float) -> float:
    rising = min(1.0, progress / _WARM_UP + 1e-3)
    return _HIGHEST_RATE * rising * (1 + math.cos(math.pi * progress)) / 2


def _loss(answers: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Dice + cross-entropy; of several heads (n, heads, ...) each counts half the one before."""
    loss_of = losses.DiceCELoss(sigmoid=True)
    if answers.ndim == targets.ndim:
        found: torch.Tensor = loss_of(answers, targets)
        return found
    weights = [0.5**number for number in range(answers.shape[1])]
    parts = [w * loss_of(head, targets) for w, head in zip(weights, answers.unbind(1), strict=True)]
    return torch.stack(parts).sum() / sum(weights)


def _validate(net: torch.nn.Module, store: frames.Store) -> float:
    net.eval()
    found = []
    with torch.no_grad():
        for index in range(len(store)):
            image, target = _pair(store, index)
            answer = torch.sigmoid(net(torch.from_numpy(image[None])))[0].numpy() > 0.5
            truth = target > 0.5
            for a, t in zip(answer, truth, strict=True):
                if size := int(a.sum() + t.sum()):
                    found.append(2 * int((a & t).sum()) / size)
    net.train()
    return float(np.mean(found))


def train(
    net: torch.nn.Module,
    training: Iterator[dict[str, np.ndarray]],
    validation: frames.Store,
    *,
    minutes: float,
    batch_size: int,
) -> tuple[list[dict[str, float]], int]:
    """Trains until the minutes are over; the best validation's weights are in `net` afterwards.

    Returns:
      a row a validation (elapsed_s, dice), and the number of steps.
    """
    optimizer = torch.optim.AdamW(net.parameters(), _HIGHEST_RATE, weight_decay=1e-4)
    budget_s = 60.0 * minutes
    history: list[dict[str, float]] = []
    best, best_state, steps, elapsed_s = -1.0, copy.deepcopy(net.state_dict()), 0, 0.0
    while elapsed_s < budget_s:
        started_s = time.monotonic()
        for group in optimizer.param_groups:
            group["lr"] = _rate(elapsed_s / budget_s)
        rows = [next(training) for _ in range(batch_size)]
        images = torch.stack([torch.as_tensor(row["image"]) for row in rows])
        targets = torch.stack([torch.as_tensor(row["target"]) for row in rows])
        loss = _loss(net(images), targets)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 12.0)
        optimizer.step()
        steps += 1
        elapsed_s += time.monotonic() - started_s
        if elapsed_s >= budget_s * (len(history) + 1) / _VALIDATIONS:
            dice = _validate(net, validation)
            history.append({"elapsed_s": round(elapsed_s, 1), "dice": dice})
            if dice > best:
                best, best_state = dice, copy.deepcopy(net.state_dict())
    net.load_state_dict(best_state)
    return history, steps


def write_masks(
    net: torch.nn.Module, spec: InputSpec, cases: list[Case], folder: pathlib.Path
) -> None:
    """Outlines cases on their own grid, by the geometry that our networks are scored with."""
    net.eval()
    for case in cases:
        scan = case_files.read_scan(case)
        planes = inference.mask(
            inference.probabilities(scan, spec, _predictor(net, spec)), spec
        ).planes
        for label, plane in zip(spec.labels, planes, strict=True):
            write.mask(folder / f"{case.id}_{label}.png", plane, scan)


def _predictor(net: torch.nn.Module, spec: InputSpec) -> Callable[[np.ndarray], np.ndarray]:
    # TensorFlow is imported for our intensity preprocessing, and only here.
    from data_pipeline import quiet_tensorflow  # noqa: F401, I001 - first: it silences the import

    from data_pipeline import intensity

    def predict(voxels: np.ndarray) -> np.ndarray:
        images = np.moveaxis(np.asarray(intensity.normalise(voxels, spec)), -1, 1)
        with torch.no_grad():
            answers = torch.sigmoid(net(torch.from_numpy(np.array(images))))
        return np.moveaxis(answers.numpy(), 1, -1)

    return predict


def main(argv: list[str] | None = None) -> None:
    """Trains, and writes history, masks and what was done."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--run", type=pathlib.Path, required=True)
    parser.add_argument("--network", required=True)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(argv)
    config = json.loads((given.run / "config.json").read_text(encoding="utf-8"))
    ours = specs.load(given.run / "spec.json")
    spec = dataclasses.replace(
        ours, flips=(), scales=(), temperatures=(), thresholds=(), cleaning=()
    )
    splits = split.load(given.run / "splits.csv")
    known = [c for c in case_files.load(pathlib.Path(config["data"])) if c.id in splits]
    part = {name: [c for c in known if splits[c.id] == name] for name in case_files.SPLITS}
    cache = pathlib.Path(config["cache"])
    store, validation = (
        frames.open_store(part[name], spec, cache) for name in ("train", "validation")
    )
    dataset_of = {case.id: case.dataset for case in known}
    epoch = batches.balanced(dataset_of[case_id] for case_id in store.case_ids())
    torch.manual_seed(given.seed)
    net = network(given.network, spec)
    history, steps = train(
        net,
        _samples(store, epoch, given.seed),
        validation,
        minutes=given.minutes,
        batch_size=int(config["batch_size"] or 8),
    )
    given.out.mkdir(parents=True, exist_ok=True)
    write_masks(net, spec, part["test"], given.out / "masks")
    with (given.out / "history.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ("elapsed_s", "dice"))
        writer.writeheader()
        writer.writerows(history)
    about = {
        "network": given.network,
        "parameters": sum(p.numel() for p in net.parameters()),
        "steps": steps,
        "versions": {"monai": monai.__version__, "torch": torch.__version__},
    }
    (given.out / "about.json").write_text(json.dumps(about, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
