"""Flags to configuration: defaults, the order of precedence, and what is refused."""

from dataclasses import fields

import pytest

from alexnet_dist.data.augment import Augmentation
from alexnet_dist.errors import UserError
from alexnet_dist.training.config import TrainingConfig
from alexnet_dist.training.flags import build_parser, parse_config


def parse(*argv):
    return parse_config(str(arg) for arg in argv)


def test_every_field_has_a_flag_and_the_defaults_are_the_configurations():
    assert parse() == TrainingConfig()
    flags = vars(build_parser().parse_args([]))
    assert set(flags) == {field.name for field in fields(TrainingConfig)} | {"config", "recipe"}


def test_the_c_programs_spellings():
    config = parse("-batchsize", 8, "-epochs", 10, "-load_pretrained", "W0", "-save", "W1")
    assert (config.batch_size, config.epochs, config.load_pretrained, config.save) == (8, 10, "W0", "W1")


def test_a_file_gives_values_and_flags_win(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text('epochs = 5\nlr = 1\nflip = false\nsample = ["a b.png", "c.png"]\nlr-scheduler = "cosine"\n')
    config = parse("--config", file, "--epochs", 7)
    assert (config.epochs, config.lr, config.flip, config.lr_scheduler) == (7, 1.0, False, "cosine")
    assert config.sample == ("a b.png", "c.png")


def test_augmentation_is_read_from_a_file_and_handed_on(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text(
        'color-jitter = [0.4, 0.4, 0.2, 0.1]\nauto-augment = "ra"\nra-magnitude = 5\nrandom-erasing = 0.1\n'
        'mixup-alpha = 0.2\ninterpolation = "bicubic"\nimage-size = 96\ncrop = "paper"\n'
    )
    config = parse("--config", file)
    assert config.mixup_alpha == 0.2
    assert config.augmentation() == Augmentation(
        size=96,
        crop="paper",
        color_jitter=(0.4, 0.4, 0.2, 0.1),
        auto_augment="ra",
        ra_magnitude=5,
        random_erasing=0.1,
        interpolation="bicubic",
    )
    assert TrainingConfig().augmentation() == Augmentation()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch = 5", "unrecognized"),
        ('epochs = "many"', "invalid int"),
        ("epochs = ", "can't be read"),
        (f"epochs = {'[' * 10_000}", "can't be read"),
    ],
    ids=["unknown", "text", "nothing", "nested"],
)
def test_a_wrong_file_is_refused(tmp_path, text, message):
    file = tmp_path / "run.toml"
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        parse("--config", file)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--epochs", 0], "--epochs is 0, but must be at least 1"),
        (["--lr", 0], "--lr is 0.0"),
        (["--lr", "nan"], "--lr is nan, but must be a finite"),
        (["--weight-decay", "inf"], "--weight-decay is inf"),
        (["--dropout", 1], "--dropout is 1.0"),
        (["--max-bad", 1.5], "--max-bad is 1.5"),
        (["--val-fraction", 0], "--val-fraction is 0.0"),
        (["--seed", -1], "--seed is -1"),
        (["--batch-size", 4, "--global-batch", 8], "give one of them"),
        (["--opt", "lars", "--trust-coefficient", 0], "--trust-coefficient is 0.0"),
        (["--opt", "adamw", "--beta2", 1], "--beta2 is 1.0"),
        (
            ["--opt", "adamw", "--momentum", 0.8],
            "--momentum is of --opt sgd or lars, and does nothing with --opt adamw",
        ),
        (["--eps", 1e-6], "--eps is of --opt adamw, and does nothing with --opt sgd"),
        (["--opt", "adam"], "invalid choice"),
        (["--crop", "square"], "invalid choice"),
        (["--random-erasing", 1.5], "--random-erasing is 1.5, but must be from 0 to 1"),
        (["--mixup-alpha", -1], "--mixup-alpha is -1.0"),
        (["--color-jitter", 0.4, 0.4, 0.4], "expected 4 arguments"),
        (["--color-jitter", 0.4, 0.4, 0.4, 0.6], "hue is at most 0.5"),
        (["--color-jitter", 0.4, "nan", 0.4, 0.1], "four numbers of at least 0"),
        (["--auto-augment", "imagenet"], "invalid choice"),
        (["--auto-augment", "ta_wide", "--ra-magnitude", 5], "--ra-magnitude is of --auto-augment ra"),
        (["--auto-augment", "ra", "--ra-magnitude", 31], "--ra-magnitude is 31, but must be from 0 to 30"),
        (["--auto-augment", "ra", "--interpolation", "lanczos"], "lanczos can't turn and shear"),
        (["--interpolation", "cubic"], "invalid choice"),
        (["--epochs", "ten"], "invalid int"),
        (["--epoch", 1], "unrecognized"),
        (["--accumulate", 0], "--accumulate is 0"),
        (["--validate-every", 0], "--validate-every is 0"),
        (["--clip-grad-norm", 0], "--clip-grad-norm is 0.0, but must be more than 0"),
        (["--ema-decay", 1], "--ema-decay is 1.0, but must be between 0 and 1"),
        (["--bias-weight-decay", -1], "--bias-weight-decay is -1.0"),
        (["--opt", "lars", "--bias-weight-decay", 0], "--bias-weight-decay is of --opt sgd or adamw"),
        (["--opt", "lars", "--nesterov"], "--nesterov is of --opt sgd"),
        (["--nesterov", "--momentum", 0], "--momentum is 0"),
        (["--elastic", "--sync", "hybrid"], "--elastic goes with --sync allreduce"),
        (["--elastic", "--freeze", "features"], "--elastic doesn't go with --freeze"),
        (["--elastic", "--on-nan", "restore"], "--elastic doesn't go with --freeze or --on-nan restore"),
        (["--elastic", "--batch-size", 8], r"--elastic doesn't go with --batch-size 8 .*say --global-batch"),
        (["--min-ranks", 2], "--min-ranks is of --elastic"),
        (["--deterministic", "--sync", "sharded"], "--deterministic doesn't go with --sync sharded"),
        (["--deterministic", "--accumulate", 2], "--deterministic doesn't go with --accumulate 2"),
        (["--deterministic", "--elastic"], "--deterministic doesn't go with --elastic"),
        (["--deterministic", "--opt", "lars"], "--deterministic doesn't go with --opt lars"),
        (["--deterministic", "--clip-grad-norm", 1], "--deterministic doesn't go with --clip-grad-norm"),
        (["--io-patience", 600], "--stall-timeout is 600, but must be more than --io-patience"),
    ],
)
def test_wrong_values_are_refused_with_their_name(argv, message):
    with pytest.raises(UserError, match=message):
        parse(*argv)


def test_help_shows_the_configurations_defaults():
    text = " ".join(build_parser().format_help().split())
    for words in (
        "--lr-patience N plateau: validations without improvement that are borne (default: 5)",
        "(default: sgd)",
    ):
        assert words in text
    assert "mirror every other training image (default: yes)" in text


def test_batch_and_learning_rate():
    assert TrainingConfig().global_batch_on(8) == 128
    assert TrainingConfig(batch_size=8).global_batch_on(4) == 32
    assert TrainingConfig(global_batch=96).global_batch_on(4) == 96
    assert TrainingConfig(lr=0.02).schedule(256).lr == 0.02
    assert TrainingConfig(lr=0.02, lr_reference_batch=128).schedule(256).lr == 0.04
