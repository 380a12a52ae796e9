"""Training from the weights of another run: other classes, layers that stay as they are, classes matched by their names."""

import signal

import numpy as np
import pytest
from launcher import assert_refused, epoch_results, needs_mpirun, start_training, steps, train, validations
from safetensors.numpy import load_file

pytestmark = needs_mpirun

STILL = ["--crop", "none", "--no-flip"]
NAMES = ("blue", "green", "red")
OTHER_ORDER = (2, 0, 1)  # the list's class i is the network's class OTHER_ORDER[i]


@pytest.fixture(scope="module")
def site(pictures, tmp_path_factory):
    """A folder with lists of the three classes, of five, and of the three in another order; and trained weights."""
    folder = tmp_path_factory.mktemp("finetuning")
    (folder / "three").mkdir()
    (folder / "three/classes.txt").write_text("\n".join(NAMES) + "\n")
    for name, count in (("train", 30), ("val", 15)):
        pictures.write_list(folder / f"three/{name}.list", count)
        five = [f"{number % 5} {line.split(' ', 1)[1]}" for number, line in enumerate(pictures.lines(count))]
        (folder / f"five-{name}.list").write_text("\n".join(five) + "\n")
    (folder / "mixed").mkdir()
    (folder / "mixed/classes.txt").write_text("".join(f"{NAMES[number]}\n" for number in OTHER_ORDER))
    for name in ("train", "val"):
        lines = [line.split(" ", 1) for line in (folder / f"three/{name}.list").read_text().splitlines()]
        mixed = "".join(f"{OTHER_ORDER.index(int(label))} {path}\n" for label, path in lines)
        (folder / f"mixed/{name}.list").write_text(mixed)
    flags = ["--data", "three/train.list", "--val", "three/val.list", "--epochs", 6, "--global-batch", 6, "--lr", 0.003]
    train(1, [*flags, "--output-dir", "before", "--save", "weights.safetensors"], folder).ok()
    return folder


def finetune(site, name, *more, ranks=1, lists="five-"):
    flags = ["--data", f"{lists}train.list", "--val", f"{lists}val.list", "--global-batch", 6, "--epochs", 2]
    start = [] if "--resume" in more else ["--load-pretrained", "weights.safetensors"]
    flags += ["--lr", 0.003, "--output-dir", name, "--save", f"{name}.safetensors", *start]
    return train(ranks, [*flags, *more], site)


def changed(site, name, before="weights"):
    """The parameters that differ."""
    one, other = (load_file(site / f"{file}.safetensors") for file in (before, name))
    assert one.keys() == other.keys()
    return {key for key in one if not np.array_equal(one[key], other[key])}


def test_other_classes_get_a_new_last_layer_and_all_is_trained(site):
    job = finetune(site, "all").ok()
    assert "\nweights: weights.safetensors\na new last layer, for 5 classes: the file's is for 3\n" in job.out
    after = load_file(site / "all.safetensors")
    assert after["classifier.6.weight"].shape[0] == 5
    assert changed(site, "all") == set(after)


@pytest.mark.parametrize(("freeze", "count"), [("features", 5), ("2", 2), ("all-but-last", 7)])
@pytest.mark.parametrize("augmentation", [[], STILL], ids=["augmented", "still"])
def test_frozen_layers_keep_their_bits_and_have_no_state(site, freeze, count, augmentation):
    name = f"{freeze}-{len(augmentation)}"
    job = finetune(site, name, "--freeze", freeze, *augmentation).ok()
    layers = list(dict.fromkeys(key.rsplit(".", 1)[0] for key in sorted(load_file(site / "weights.safetensors"))))
    order = sorted(layers, key=lambda key: (key.startswith("classifier"), int(key.split(".")[1])))
    trained = {f"{layer}.{part}" for layer in order[count:] for part in ("weight", "bias")}
    assert changed(site, name) == trained
    state = load_file(site / name / "latest.safetensors")
    assert {key.removeprefix("momentum.") for key in state if key.startswith("momentum.")} == trained
    assert ("compute the features of 45 images once" in job.out) == bool(augmentation)
    assert ("anew in each epoch: --crop, --flip change the images" in job.out) == (not augmentation)


@pytest.mark.parametrize("freeze", ["features", "all-but-last"])
@pytest.mark.parametrize(("ranks", "sync"), [(2, "allreduce"), (3, "sharded"), (2, "hybrid")])
def test_ranks_agree_on_features_that_are_kept(site, freeze, ranks, sync):
    if not (site / f"one-{freeze}").exists():
        finetune(site, f"one-{freeze}", "--freeze", freeze, *STILL).ok()
    name = f"{freeze}-{sync}"
    job = finetune(site, name, "--freeze", freeze, *STILL, "--sync", sync, ranks=ranks).ok()
    assert ("hybrid is not possible: of the fully connected layers, some are frozen" in job.out) == (
        (freeze, sync) == ("all-but-last", "hybrid")
    )
    alone = site / f"one-{freeze}"
    assert list(steps(site / name).values()) == pytest.approx(list(steps(alone).values()), rel=1e-4)
    answers = [[entry["val_top1"] for entry in epoch_results(run)] for run in (site / name, alone)]
    assert answers[0] == answers[1]


@pytest.mark.parametrize("extra", [[], ["--ema-decay", 0.5, "--accumulate", 2]], ids=["plain", "averaged"])
def test_resumed_to_the_bit(site, extra):
    flags = ["--freeze", "features", *STILL, "--save-every", 3, "--keep", 9, *extra]
    whole, resumed = (f"{name}-{len(extra)}" for name in ("whole", "resumed"))
    finetune(site, whole, *flags).ok()
    finetune(site, resumed, *flags, "--resume", f"{whole}/checkpoint-00000003.safetensors").ok()
    assert steps(site / resumed) == steps(site / whole)
    assert not changed(site, resumed, whole)
    assert changed(site, whole) == {f"classifier.{layer}.{part}" for layer in (1, 4, 6) for part in ("weight", "bias")}
    job = finetune(site, "other", "--resume", f"{whole}/checkpoint-00000003.safetensors", "--freeze", 1, *extra)
    assert_refused(job, "has no state of other layers than it was trained with", "give --freeze features")


def test_a_broken_image_has_no_features(site):
    lines = (site / "five-train.list").read_text().splitlines()
    (site / "broken-train.list").write_text("\n".join([*lines[:7], "3 missing.jpg", *lines[7:]]) + "\n")
    (site / "broken-val.list").write_text((site / "five-val.list").read_text())
    job = finetune(site, "broken", "--freeze", "features", *STILL, lists="broken-", ranks=2).ok()
    assert job.out.count("skipped: broken-train.list:8: ") == 1
    assert "missing.jpg is missing" in job.out
    assert [entry["skipped"] for entry in epoch_results(site / "broken")] == [1, 1]


def test_a_signal_while_features_are_computed(site):
    """One of the images hangs, so it comes in the midst of them; the same command does it all again."""
    lists = ["--data", "five-train.list", "--val", "five-val.list", "--global-batch", 6, "--epochs", 1]
    frozen = ["--load-pretrained", "weights.safetensors", "--freeze", "features", *STILL]
    flags = [*lists, *frozen, "--output-dir", "early"]
    with start_training(2, flags, site, fault="features@4") as job:
        job.until((site / "struck").exists, "an image is being read")
        job.signal(signal.SIGUSR1)
        job.wait()
    assert job.code == 75, str(job)
    assert "stopped by a signal before the first step" in job.out
    assert "Traceback" not in job.err
    assert not [*(site / "early").glob("*.safetensors")]
    train(2, flags, site).ok()


def test_freezing_needs_weights(site):
    flags = ["--data", "five-train.list", "--val", "five-val.list", "--output-dir", "random", "--freeze"]
    assert_refused(train(2, [*flags, "features"], site), "would keep random weights", "--load-pretrained")
    assert_refused(train(1, [*flags, "8"], site), "--freeze is 8", "1 to 7")


@pytest.mark.parametrize("resumed", [False, True])
def test_classes_of_other_numbers_are_matched_by_their_names(site, resumed):
    start = ["--resume", "before/latest.safetensors", "--epochs", 7] if resumed else []
    runs = {}
    for lists in ("three", "mixed"):
        job = finetune(site, f"{lists}-{resumed}", *start, "--lr", 1e-9, "--no-flip", lists=f"{lists}/").ok()
        assert ("put into this list's order, by their names" in job.out) == (lists == "mixed" and not resumed)
        runs[lists] = list(validations(site / f"{lists}-{resumed}").values())[-1]
    assert runs["mixed"]["val_top1"] == runs["three"]["val_top1"] > 0.5  # chance is a third
    assert runs["mixed"]["val_loss"] == pytest.approx(runs["three"]["val_loss"], rel=1e-5)
    one, other = (load_file(site / f"{lists}-{resumed}.safetensors")["classifier.6.bias"] for lists in runs)
    np.testing.assert_allclose(other, one[list(OTHER_ORDER)], rtol=0, atol=1e-6)


def test_other_names_are_refused_unless_the_numbers_are_meant(site):
    (site / "names.txt").write_text("Horse\nVögel\nred\n")
    flags = ["--class-names", "names.txt", "--freeze", "features"]
    job = finetune(site, "names", *flags, lists="three/", ranks=2)
    assert_refused(job, "only there: 'blue', 'green'", "only here: 'Horse', 'Vögel'", "--ignore-class-names")
    finetune(site, "names", *flags, "--ignore-class-names", lists="three/").ok()


def test_a_run_is_not_continued_with_other_names_unless_the_numbers_are_meant(site):
    (site / "renamed.txt").write_text("blue\ngreen\nViolet\n")
    flags = ["--class-names", "renamed.txt", "--resume", "before/latest.safetensors", "--epochs", 7]
    job = finetune(site, "renamed", *flags, lists="three/", ranks=2)
    assert_refused(job, "before/checkpoint-", "only there: 'red'; only here: 'Violet'", "--ignore-class-names")
    finetune(site, "renamed", *flags, "--ignore-class-names", lists="three/").ok()
