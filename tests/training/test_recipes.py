"""The recipes: which flags win, what each file says about itself, and that its arithmetic is right."""

import re
from dataclasses import fields

import pytest

from alexnet_dist.errors import UserError
from alexnet_dist.training.config import TrainingConfig
from alexnet_dist.training.flags import build_parser, parse_config
from alexnet_dist.training.recipes import recipe_file, recipe_names

NAMES = ["fashion-mnist", "finetune", "large-batch", "paper", "torchvision"]
SECONDS = {"day": 86400, "hour": 3600, "minute": 60}


def test_the_recipes_are_there_and_help_lists_them():
    assert recipe_names() == NAMES
    text = build_parser().format_help()
    assert all(re.search(rf"^  {name} +\S", text, re.M) for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_says_what_to_expect_and_what_it_takes(name):
    text = recipe_file(name).read_text(encoding="utf-8")
    for word in ("Source:", "Expected:", "Speed:"):
        assert f"\n# {word} " in text, word
    images, epochs = map(int, re.search(r"(\d+) images x (\d+) epochs", text).groups())
    assert epochs == parse_config(["--recipe", name]).epochs
    speeds = re.findall(r"(\d+) images/s to\s+end in (\d+) (day|hour|minute)", text)
    assert speeds
    for speed, count, unit in speeds:
        assert int(speed) == pytest.approx(images * epochs / (int(count) * SECONDS[unit]), abs=1)


def test_the_papers_recipe_is_the_papers():
    config = parse_config(["--recipe", "paper"])
    expected = TrainingConfig(global_batch=128, init="paper", crop="paper", color_noise=True)
    for field in fields(config):
        assert getattr(config, field.name) == getattr(expected, field.name), field.name


def test_torchvisions_recipe_is_torchvisions():
    schedule = parse_config(["--recipe", "torchvision"]).schedule(256)
    rates = [schedule.rate(epoch, None) for epoch in (0, 29.9, 30, 60, 89)]
    assert rates == pytest.approx([0.01, 0.01, 0.001, 0.0001, 0.0001])


def test_the_command_line_wins_over_a_file_and_that_over_the_recipe(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('recipe = "torchvision"\nepochs = 5\nlr = 0.5\nbatch-size = 4\n')
    config = parse_config(["--config", str(file), "--lr", "0.25"])
    assert (config.weight_decay, config.epochs, config.lr) == (1e-4, 5, 0.25)
    assert (config.batch_size, config.global_batch) == (4, None)
    config = parse_config(["--recipe", "large-batch", "--config", str(file)])
    assert (config.opt, config.epochs, config.batch_size, config.global_batch) == ("lars", 5, 4, None)


def test_an_unknown_recipe_is_refused_with_the_list():
    with pytest.raises(UserError, match="--recipe cake is unknown") as error:
        parse_config(["--recipe", "cake"])
    assert all(name in str(error.value) for name in NAMES)
