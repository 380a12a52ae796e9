"""The programs, by the words that `alexnet` takes. Each is a module of this package with build_parser() and main(argv)."""

PROGRAMS = {
    "train": "train on all ranks of an MPI run",
    "supervise": "start a training command again after each failure",
    "layout": "measure how many ranks of how many threads are fastest here",
    "evaluate": "measure a trained network on a list of images",
    "inference": "classify images, or write what a layer yields for them",
    "report": "one page on what has come of a run, or of several",
    "serve": "classify images on a page of this machine",
    "prepare": "write the lists that training reads, from folders, archives, IDX files",
    "convert": "weights to and from torchvision's .pth and ONNX",
    "doctor": "what this machine offers, and whether a run would work",
    "completion": "print what lets a shell complete these words and their flags",
}
