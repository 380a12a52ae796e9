"""The web server of alexnet-serve: what it lets in, how requests share the network, and its page."""
