"""What `prepare` does: from data as people have them to lists of images, one module a format."""
