"""A shuffled order that can be read at any place: nothing is stored, nothing is walked through."""

_ROUNDS = 4
_MASK64 = (1 << 64) - 1


def permute(index: int, size: int, key: int) -> int:
    """Return where `index` lies in the permutation of `range(size)` that `key` names.

    A Feistel network over the smallest even number of bits that holds `size`, walked until it
    comes back into the range (Black and Rogaway, 2002: "Ciphers with arbitrary finite domains");
    fewer than four steps on average.

    Args:
        index: place in the order, 0 ≤ index < size.
        size: number of items.
        key: any integer; only its low 64 bits count.
    """
    assert 0 <= index < size
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    while True:
        left, right = index >> half, index & mask
        for number in range(_ROUNDS):
            left, right = right, left ^ (_mix(right, number, key) & mask)
        index = left << half | right
        if index < size:
            return index


def mix(*parts: int) -> int:
    """Return 64 well-mixed bits of some integers, in order."""
    state = 0
    for part in parts:
        state = _splitmix((state ^ part) & _MASK64)
    return state


def _mix(value: int, number: int, key: int) -> int:
    return mix(key, number, value)


def _splitmix(value: int) -> int:
    # the finaliser of SplitMix64 (Steele, Lea and Flood, 2014)
    value = (value + 0x9E3779B97F4A7C15) & _MASK64
    value = ((value ^ value >> 30) * 0xBF58476D1CE4E5B9) & _MASK64
    value = ((value ^ value >> 27) * 0x94D049BB133111EB) & _MASK64
    return value ^ value >> 31
