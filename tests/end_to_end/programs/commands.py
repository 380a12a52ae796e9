"""What the tests of the programs share: the recipe of the network that they train, and inference with it."""

import json
import sys

from launcher import alone

VALIDATION = 0.2  # of each class
RECIPE = f"""
data = "images.list"
val = "val.list"
output-dir = "runs"
save = "weights.safetensors"
sample = ["red/image 1.png", "blue/image 2.jpg"]
width = {1 / 8}
image_size = 67
crop = "none"
flip = false
dropout = 0.2
global-batch = 12
lr = 0.003
lr-patience = 20
threads = 1
workers = 1
epochs = 90  # overruled on the command line
"""
EPOCHS, STEPS_AN_EPOCH = 12, 3  # 36 images


def inference(site, *flags, env=None):
    return alone([sys.executable, "-m", "alexnet_dist.inference", "--load", "weights.safetensors", *flags], site, env)


def predictions(job):
    return {line["image"]: line["predictions"] for line in map(json.loads, job.out.splitlines())}
