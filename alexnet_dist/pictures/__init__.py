"""Pictures for people: what a network looks at, as colours over an image, and contact sheets."""
