"""Sizes of the letters of op lines at which engines are held to each other: 1, odd, and several tiles."""

from string import ascii_uppercase

_ODD = {
    "A": 3,
    "C": 37,
    "D": 5,
    "E": 7,
    "F": 21,
    "G": 2,
    "H": 3,
    "I": 33,
    "K": 3,
    "M": 3,
    "N": 5,
    "O": 65,
    "P": 13,
    "R": 4,
    "S": 2,
}
_LARGE = {
    "A": 4,
    "C": 384,
    "D": 64,
    "E": 16,
    "F": 777,
    "G": 2,
    "H": 3,
    "I": 300,
    "K": 3,
    "M": 32,
    "N": 5,
    "O": 517,
    "P": 200,
    "R": 16,
}
SIZES = {
    "ones": dict.fromkeys(ascii_uppercase, 1),
    "odd": _ODD | {"T": 67, "V": 131, "W": 11},
    "large": _LARGE | {"S": 30, "T": 150, "V": 3001, "W": 96},
}
