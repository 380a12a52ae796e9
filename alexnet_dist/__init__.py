"""alexnet_dist: train AlexNet with NumPy, MPI and Pillow, and no deep-learning framework."""

__version__ = "0.1.0"
