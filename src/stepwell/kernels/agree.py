"""Do equal keys agree? Repeated keys by bits, and a dependency by a hash table of what each key had first.

Both work on 64-bit hashes, a block at a time, in memory that does not grow with the number of rows. Whole numbers that
must be among others are looked up in a map of those.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from stepwell.core.errors import InvalidValueError

Hashes = npt.NDArray[np.uint64]


class SeenTwice:
    """Which keys come at least twice: pass all blocks to `add`, then all blocks to `collect`, then ask `repeated`.

    A key sets one bit, and a second key that finds the bit set marks it; only keys under a marked bit are collected in
    the second pass and sorted.

    Args:
        bits: Bits of the table, a power of two; 16 a key leave 6 % of distinct keys to be sorted.

    Cost:
        Two passes of O(S); `bits / 4` bytes, and 8 for each key under a marked bit.
    """

    def __init__(self, bits: int) -> None:
        if bits < 64 or bits & (bits - 1):
            raise InvalidValueError("bits", bits, "a power of two, at least 64")
        self._seen = np.zeros(bits // 64, np.uint64)
        self._twice = np.zeros(bits // 64, np.uint64)
        self._found: list[Hashes] = []

    def add(self, keys: Hashes) -> None:
        """First pass."""
        _mark(keys, self._seen, self._twice)

    def collect(self, keys: Hashes) -> None:
        """Second pass."""
        self._found.append(_under(keys, self._twice))

    def repeated(self) -> Hashes:
        """Return the keys that came at least twice, sorted."""
        found = np.sort(np.concatenate([np.empty(0, np.uint64), *self._found]))
        return np.unique(found[1:][found[1:] == found[:-1]])


class FirstValues:
    """Which keys come with more than one value: pass all blocks to `add`, then ask `torn`.

    Cost:
        O(S) on average; a table of 16 bytes for two to four times the distinct keys.
    """

    def __init__(self) -> None:
        self._keys, self._values = _places(1 << 10)
        self._used = 0
        self._torn: list[Hashes] = []

    @property
    def size_bytes(self) -> int:
        """Bytes of the table."""
        return self._keys.nbytes + self._values.nbytes

    def add(self, keys: Hashes, values: Hashes) -> None:
        """Compare a block's values with the first ones of their keys."""
        begin = 0
        while begin < len(keys):
            torn = np.empty(len(keys) - begin, np.uint64)
            done, self._used, num = _compare(keys[begin:], values[begin:], self._keys, self._values, self._used, torn)
            self._torn.append(np.unique(torn[:num]))
            begin += done
            if begin < len(keys):
                self._grow()

    def _grow(self) -> None:
        keys, values = self._keys, self._values
        kept = np.flatnonzero(keys[:-1])
        self._keys, self._values = _places(2 * (len(keys) - 1))
        self._keys[-1], self._values[-1] = keys[-1], values[-1]
        none = np.empty(len(kept), np.uint64)
        _, self._used, _ = _compare(keys[kept], values[kept], self._keys, self._values, 0, none)

    def torn(self) -> Hashes:
        """Return the keys that came with more than one value, sorted."""
        return np.unique(np.concatenate([np.empty(0, np.uint64), *self._torn]))


class Members:
    """Which whole numbers of a range there are: pass them to `add`, then ask `lacks`.

    Args:
        low: The smallest.
        high: The largest.

    Cost:
        O(S); a byte for each number of the range.
    """

    def __init__(self, low: int, high: int) -> None:
        self._low, self._there = low, np.zeros(high - low + 1, np.bool_)

    def add(self, numbers: npt.NDArray[np.int64]) -> None:
        """Put numbers of the range in."""
        self._there[numbers - self._low] = True

    def lacks(self, numbers: npt.NDArray[np.int64]) -> bool:
        """Say whether any of these is not in, within the range or outside it."""
        return bool(_any_missing(numbers, self._low, self._there))


def _places(size: int) -> tuple[Hashes, Hashes]:
    """Return empty keys and values; 0 is an empty place, and the last place belongs to the key 0."""
    return np.zeros(size + 1, np.uint64), np.zeros(size + 1, np.uint64)


def seen_twice_reference(keys: Hashes) -> Hashes:
    """State what `SeenTwice` must find."""
    found, counts = np.unique(keys, return_counts=True)
    return found[counts > 1]


def torn_reference(keys: Hashes, values: Hashes) -> Hashes:
    """State what `FirstValues` must find."""
    kinds: dict[int, set[int]] = {}
    for key, value in zip(keys.tolist(), values.tolist(), strict=True):
        kinds.setdefault(key, set()).add(value)
    return np.array(sorted(key for key, some in kinds.items() if len(some) > 1), np.uint64)


# Below this line stands Numba code.
# ruff: noqa: ANN001, ANN202


@numba.njit(cache=True, nogil=True)
def _any_missing(numbers, low, there):  # type: ignore[no-untyped-def]
    high = low + len(there) - 1
    for i in range(len(numbers)):
        if numbers[i] < low or numbers[i] > high or not there[numbers[i] - low]:
            return True
    return False


@numba.njit(cache=True, nogil=True)
def _mark(keys, seen, twice):  # type: ignore[no-untyped-def]
    mask = np.uint64(64 * len(seen) - 1)
    for i in range(len(keys)):
        place = keys[i] & mask
        word, bit = place >> np.uint64(6), np.uint64(1) << (place & np.uint64(63))
        if seen[word] & bit:
            twice[word] |= bit
        else:
            seen[word] |= bit


@numba.njit(cache=True, nogil=True)
def _under(keys, twice):  # type: ignore[no-untyped-def]
    mask = np.uint64(64 * len(twice) - 1)
    out = np.empty(len(keys), np.uint64)
    count = 0
    for i in range(len(keys)):
        place = keys[i] & mask
        out[count] = keys[i]
        count += int((twice[place >> np.uint64(6)] >> (place & np.uint64(63))) & np.uint64(1))
    return out[:count].copy()


@numba.njit(cache=True, nogil=True)
def _compare(keys, values, table, first, used, torn):  # type: ignore[no-untyped-def]
    """Return how many rows were done before the table was half full, the places used, and how many keys are torn."""
    last = len(table) - 1
    mask = np.uint64(last - 1)
    half, num = last // 2, 0
    for i in range(len(keys)):
        key, place = keys[i], keys[i] & mask
        if key == np.uint64(0):
            key, place = np.uint64(1), np.uint64(last)
        while table[place] != key and table[place] != np.uint64(0):
            place = (place + np.uint64(1)) & mask
        if table[place] == key:
            if first[place] != values[i] and (num == 0 or torn[num - 1] != keys[i]):
                torn[num] = keys[i]
                num += 1
        elif used >= half:
            return i, used, num
        else:
            table[place], first[place] = key, values[i]
            used += 1
    return len(keys), used, num
