"""The names of the classes of data sets that everybody knows, by class id."""

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

# The table of labels in the README of https://github.com/zalandoresearch/fashion-mnist
FASHION_MNIST = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

KNOWN_NAMES = {"digits": DIGITS, "fashion-mnist": FASHION_MNIST}
