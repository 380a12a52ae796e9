"""Weights in files of other programs: torchvision's .pth and ONNX, to and from our checkpoints."""
