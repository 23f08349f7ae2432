"""Types of command line arguments, shared by the commands that draw."""

import argparse

SMALLEST_SIDE, LARGEST_SIDE = 16, 4096  # of an image, in pixels


def image_size(text: str) -> tuple[int, int]:
    """An argparse type: WIDTHxHEIGHT in pixels."""
    width, cross, height = text.lower().partition("x")
    if not (cross and width.isdecimal() and height.isdecimal()):
        raise argparse.ArgumentTypeError(f"expected WIDTHxHEIGHT in pixels, such as 480x320, got {text!r}")
    if not all(SMALLEST_SIDE <= int(side) <= LARGEST_SIDE for side in (width, height)):
        raise argparse.ArgumentTypeError(f"expected sides of {SMALLEST_SIDE} to {LARGEST_SIDE} pixels, got {text!r}")
    return int(width), int(height)
