"""Trains a network of MONAI on the frames, the split and the clock of one of our runs.

    python -m evaluation.speed.monai_training --run RUN --network BasicUNet --minutes 4 --out DIR

Same frames, same batch size, same augmentation, same loss (Dice + cross-entropy), AdamW with
warm-up and cosine, the weights of the best validation Dice, bfloat16 where our run had it, and
answers averaged over the same mirror images: what differs is the library and its network. As in
our run, validation is part of the minutes, the last one too. Leaves `history.csv` (elapsed_s,
dice of the validation frames) and `masks/`, the test cases outlined on their own grid, which
`evaluation.run --masks` scores like anybody's.

In bfloat16 a step of either network takes half the time or less on a CPU that has it; channels_last
was not faster for either, so tensors stay contiguous.
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

from data_pipeline import quiet_tensorflow  # noqa: F401 - first: it silences the import

# isort: split

import monai
import numpy as np
import torch
from monai import data, losses, transforms
from monai.networks import nets

from data_pipeline import augment, batches, frames, inference, intensity, split, write
from data_pipeline import cases as case_files
from data_pipeline import spec as specs
from data_pipeline.cases import Case
from data_pipeline.errors import InputError, one_line_for_bad_input
from data_pipeline.spec import InputSpec
from evaluation.speed import rivals

_HIGHEST_RATE = 2e-3
_WARM_UP = 0.03
_VALIDATIONS = 16  # over the training at most, evenly in time
_VALIDATION_SHARE = 0.1  # of the minutes at most: a slow network is looked at less often


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


def augmentation(spec: InputSpec) -> transforms.Compose:
    """Returns what our networks of this modality are trained with, in MONAI's own transforms."""
    data.set_track_meta(False)  # nobody asks where a tile came from, and it takes time
    policy = augment.policy(spec.modality, spec.shape)
    return transforms.Compose(rivals.monai_augmentation(policy, spec.shape, ("image", "target")))


def _samples(
    store: frames.Store, spec: InputSpec, epoch: np.ndarray, seed: int
) -> Iterator[dict[str, torch.Tensor]]:
    rng = np.random.default_rng(seed)
    augmented = augmentation(spec).set_random_state(seed)
    while True:
        for index in rng.permutation(epoch):
            image, target = _pair(store, int(index))
            yield augmented({"image": image, "target": target})


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


def _validate(
    net: torch.nn.Module, store: frames.Store, batch_size: int, precision: torch.dtype
) -> float:
    """Returns the mean Dice of frames; those without foreground in truth and answer are left out.

    In batches: weights are brought to bfloat16 once a call.
    """
    net.eval()
    found = []
    for first in range(0, len(store), batch_size):
        numbers = range(first, min(first + batch_size, len(store)))
        images, targets = map(np.stack, zip(*(_pair(store, n) for n in numbers), strict=True))
        with torch.no_grad():
            logits = _answers(net, torch.from_numpy(images), precision)
        answer, truth = logits.numpy() > 0, targets > 0.5  # a probability above one half
        pixels = tuple(range(2, truth.ndim))
        size = (answer.sum(pixels) + truth.sum(pixels)).ravel()
        overlap = 2 * (answer & truth).sum(pixels).ravel()
        found += list(overlap[size > 0] / size[size > 0])
    net.train()
    return float(np.mean(found)) if found else 0.0


def _answers(net: torch.nn.Module, images: torch.Tensor, precision: torch.dtype) -> torch.Tensor:
    """Returns the logits in float32, whatever the network computes in."""
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        answers: torch.Tensor = net(images)
    return answers.float()


def train(
    net: torch.nn.Module,
    training: Iterator[dict[str, torch.Tensor]],
    validation: frames.Store,
    *,
    minutes: float,
    batch_size: int,
    precision: torch.dtype = torch.float32,
) -> tuple[list[dict[str, float]], int]:
    """Trains until the minutes are over; the best validation's weights are in `net` afterwards.

    Args:
      net: what to train.
      training: augmented samples, for ever.
      validation: frames to choose the best weights by; time for the last look at them is held
        back, as it is of our minutes.
      minutes: for steps and validation together, by the clock on the wall.
      batch_size: samples a step.
      precision: torch.bfloat16 or torch.float32, of what is computed; weights stay in float32.

    Returns:
      a row a validation (elapsed_s when it was done, dice), and the number of steps.
    """
    optimizer = torch.optim.AdamW(net.parameters(), _HIGHEST_RATE, weight_decay=1e-4)
    history: list[dict[str, float]] = []
    best, best_state, steps = -1.0, copy.deepcopy(net.state_dict()), 0
    started_s, elapsed_s, budget_s = time.monotonic(), 0.0, 60.0 * minutes
    for_steps_s, next_s = budget_s, budget_s / _VALIDATIONS
    while elapsed_s < for_steps_s:
        for group in optimizer.param_groups:
            group["lr"] = _rate(elapsed_s / for_steps_s)
        _step(net, optimizer, [next(training) for _ in range(batch_size)], precision)
        steps += 1
        elapsed_s = time.monotonic() - started_s
        if elapsed_s < min(next_s, for_steps_s):
            continue
        dice = _validate(net, validation, batch_size, precision)
        validation_s = time.monotonic() - started_s - elapsed_s
        elapsed_s += validation_s
        for_steps_s = budget_s - validation_s
        next_s = elapsed_s + max(budget_s / _VALIDATIONS, validation_s / _VALIDATION_SHARE)
        history.append({"elapsed_s": round(elapsed_s, 1), "dice": dice})
        if dice > best:
            best, best_state = dice, copy.deepcopy(net.state_dict())
    net.load_state_dict(best_state)
    return history, steps


def _step(
    net: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    rows: list[dict[str, torch.Tensor]],
    precision: torch.dtype,
) -> None:
    images, targets = (
        torch.stack([torch.as_tensor(row[name]) for row in rows]) for name in ("image", "target")
    )
    loss = _loss(_answers(net, images, precision), targets)
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(net.parameters(), 12.0)
    optimizer.step()


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
    """Returns what our networks do too: in float32, the mean answer to a tile's mirror images."""

    def predict(voxels: np.ndarray) -> np.ndarray:
        shown = np.moveaxis(np.asarray(intensity.normalise(voxels, spec)), -1, 1)
        images = torch.from_numpy(np.array(shown))
        said = []
        for flip in ((), *spec.flips):
            axes = [2 + axis for axis in flip]
            with torch.no_grad():
                answer = torch.sigmoid(net(torch.flip(images, axes)))
            said.append(torch.flip(answer, axes))
        return np.moveaxis(torch.stack(said).mean(0).numpy(), 1, -1)

    return predict


def rival_spec(run: pathlib.Path) -> InputSpec:
    """Returns what a rival is shown and how it is asked: as our run, without what that learnt.

    Raises:
      InputError: if our run sees anything but whole slices at one size.
    """
    ours = specs.load(run / "spec.json")
    if len(ours.shape) != 2 or ours.is_cut or ours.scales:
        raise InputError(
            f"{run}: rivals are shown whole slices at one size; this run has tiles of "
            f"{ours.shape} of frames of {ours.frame or ours.shape}, scales {ours.scales}. "
            "X-rays and CT of --units stored work"
        )
    return dataclasses.replace(ours, temperatures=(), thresholds=(), cleaning=())


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
    spec = rival_spec(given.run)
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
    in_bfloat16 = config["precision_used"] == "mixed_bfloat16"
    history, steps = train(
        net,
        _samples(store, spec, epoch, given.seed),
        validation,
        minutes=given.minutes,
        batch_size=int(config["batch_size"] or 8),
        precision=torch.bfloat16 if in_bfloat16 else torch.float32,
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
        "precision": "bfloat16 autocast" if in_bfloat16 else "float32",
        "memory_format": "contiguous",
        "threads": torch.get_num_threads(),
        "views": 1 + len(spec.flips),
        "versions": {"monai": monai.__version__, "torch": torch.__version__},
    }
    (given.out / "about.json").write_text(json.dumps(about, indent=2), encoding="utf-8")


if __name__ == "__main__":
    with one_line_for_bad_input():
        main()
