"""Trains a network: `python -m training.run --model unet`.

On the shipped sample and 2 CPU cores that multiply bfloat16 (AVX-512) this takes about 7 minutes,
20 on older ones, and reaches a Dice of about 0.96 on X-ray lungs of patients it has not
seen. `--minutes` fits it into a time that has room for 100 steps and more, Python's start and
imports (some seconds) not counted.
"""

import shlex
import sys
import time
from collections import Counter

from rich import console as rich_console

from data_pipeline import quiet_tensorflow  # noqa: F401 - before TensorFlow is imported
from data_pipeline.errors import InputError, one_line_for_bad_input
from models import zoo
from training import calibrate, card, device, fit, geometry_plan, plan, record
from training import config as configs
from training.plan import Plan

_INTERRUPTED_EXIT_CODE = 130  # as a shell gives for Ctrl-C


def main(argv: list[str] | None = None) -> None:
    """Parses the flags, trains, and says where the result lies."""
    console = rich_console.Console(highlight=False, soft_wrap=True)
    with one_line_for_bad_input(), device.lost_worker_in_words():
        config = configs.from_flags(argv)
        if config.model in zoo.CLASSICAL:
            raise InputError(
                f"{config.model} has nothing to train; score it beside a trained run with "
                f"`python -m evaluation.run RUN {config.model} --out DIR`"
            )
        if device.is_one_of_several():
            if not config.name:
                raise InputError("several workers need a --name for their common run directory")
            console.print("waiting for the other workers of TF_CONFIG")
        device.strategy()  # several workers must find each other before anything else
        began_s = time.monotonic()
        _train(plan.make(config), sys.argv[1:] if argv is None else argv, console, began_s)
        device.meet()  # the chief would be told of workers that have left before it


def _train(
    plans: list[Plan], words: list[str], console: rich_console.Console, began_s: float | None
) -> None:
    config = plans[0].config
    directory = plans[0].directory.parent if config.folds else plans[0].directory
    if config.overwrite and device.is_chief():
        fit.clear(directory)
    trained = False
    for number, one in enumerate(plans):
        if config.resume and fit.is_finished(one.directory):
            record.check_same(one)
            continue
        if config.folds:
            console.print(f"fold {number + 1} of {len(plans)}")
        _introduce(one, console)
        try:
            fit.train(one, console, began_s)
            trained = True
        except KeyboardInterrupt:  # in training, or before and after it
            again = shlex.join(w for w in words if w not in ("--resume", "--overwrite"))
            name = "" if config.name else f" --name {directory.name}"
            console.print(f"interrupted. Go on with: python -m training.run {again}{name} --resume")
            sys.exit(_INTERRUPTED_EXIT_CODE)
        began_s = None  # each fold has the budget to itself; the first one has waited for the plan
    if not device.is_chief():
        return
    if config.folds:
        record.start_folds(plans, anew=trained)
        folders = [one.directory for one in plans]
        calibrate.again(
            folders,
            plans[0].cases,
            folds=True,
            calibration=config.calibration,
            cleaning=config.cleaning,
        )
    console.print(f"\nrun: {directory}")
    for one in plans:
        console.print(*card.gains(record.learnt(one.directory)), sep="\n")
    elsewhere = " --data OTHER_MANIFEST --split all" if config.use_all else ""
    console.print(
        f"next: python -m evaluation.run {directory} threshold{elsewhere} "
        f"--out results/{directory.name}"
    )


def _introduce(one: Plan, console: rich_console.Console) -> None:
    """Says what will be done, before it is."""
    config, spec = one.config, one.spec
    patients = len({case.patient for case in one.cases})
    unknown = sum(not case.patient_id for case in one.cases)
    counts = Counter(one.splits.values())
    shares = ", ".join(f"{counts[name]} {name}" for name in ("train", "validation", "test"))
    console.print(
        f"data        {config.data}: {len(one.cases)} {spec.modality} cases of {patients} patients"
    )
    console.print(f"split       {shares} (by patient, seed {config.seed})")
    if unknown and not config.use_all:
        console.print(
            f"            {unknown} cases name no patient: that two of one patient lie on both "
            "sides cannot be excluded"
        )
    console.print(f"model       {config.model}, {one.network.count_params():,} parameters")
    console.print(f"labels      {', '.join(spec.labels)}")
    window = (
        f"window {spec.window} {spec.units}" if spec.window else f"percentiles {spec.percentiles}"
    )
    shown = geometry_plan.describe(spec, config.foreground_share)
    console.print(f"input       {shown}, {window}")
    console.print(f"            {_derivation(one)}")
    times = f"{config.accumulate} x " if config.accumulate > 1 else ""
    console.print(f"budget      {config.budget()}, batch {times}{config.batch_size} a device")
    console.print(
        f"device      {device.describe(device.strategy())}, {device.precision(config.precision)}, "
        f"XLA {device.xla()}"
    )


def _derivation(one: Plan) -> str:
    """Says from what the settings come that nobody gave."""
    found = one.fingerprint
    shape = " x ".join(map(str, found.shape))
    shares = ", ".join(f"{label} {share:.1%}" for label, share in found.foreground_share.items())
    return (
        f"(median of {found.cases} cases to learn from: {shape} pixels, {shares} of the image; "
        "--size, --tile, --window, --batch-size choose otherwise)"
    )


if __name__ == "__main__":
    main()
