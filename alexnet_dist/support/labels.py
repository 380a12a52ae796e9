"""The one label that is no class."""

NO_LABEL = -1  # of an image that could not be read: it counts for neither loss nor gradient nor accuracy
