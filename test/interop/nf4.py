"""Numbers of 4 bits as bitsandbytes makes them, in numpy: NF4 in blocks of 64, whose scales are of 8 bits in blocks of 256 (QLoRA, Dettmers
and others 2023). For check_finetune.py; where bitsandbytes itself does not run, its bits in test/fixtures say that this is the same.
"""
import os
import re

FIXTURES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "fixtures")
# As the paper's appendix and bitsandbytes have them.
LEVELS = [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
          0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0]


def scale_book():
    """bitsandbytes' dynamic map, which it stored itself."""
    import numpy as np
    with open(f"{FIXTURES}/nf4_reference.inc", encoding="utf-8") as file:
        return np.array([int(word, 16) for word in re.findall(r"0x([0-9A-F]{8}),", file.read())[:256]], dtype=np.uint32).view(np.float32)


def quantize_blocks(values, size, levels):
    """The codes and the scale of each block; a block that is not full is divided by its scale, the others are multiplied by its inverse."""
    import numpy as np
    full = len(values) // size * size
    blocks = values[:full].reshape(-1, size)
    scales = np.abs(blocks).max(1)
    shares = [(blocks * (np.float32(1) / np.maximum(scales, np.float32(1e-38)))[:, None]).ravel()]
    if full < len(values):
        last = np.maximum(np.abs(values[full:]).max(), np.float32(1e-38))
        scales = np.append(scales, last)
        shares.append(values[full:] / last)
    bounds = (levels[:-1] + levels[1:]) / np.float32(2)
    return np.searchsorted(bounds, np.clip(np.concatenate(shares), -1, 1)).astype(np.uint8), scales


def quantize(values):
    """What is stored of float32 numbers, by name, and the numbers that this stands for."""
    import numpy as np
    levels, book = np.array(LEVELS, dtype=np.float32), scale_book()
    codes, scales = quantize_blocks(values, 64, levels)
    offset = np.float32(scales.astype(np.float64).mean())
    small, nested = quantize_blocks(scales - offset, 256, book)
    again = book[small] * np.repeat(nested, 256)[:len(small)] + offset
    pairs = np.append(codes, np.full(len(codes) % 2, LEVELS.index(0), np.uint8))
    return {"codes": pairs[::2] << 4 | pairs[1::2], "offset": offset, "scales": small, "nested": nested, "numbers": levels[codes] * np.repeat(again, 64)[:len(codes)]}


def check():
    """Ends with an AssertionError unless it has bitsandbytes' bits, on the inputs of make_nf4_reference.py."""
    import sys
    import numpy as np
    sys.path.insert(0, FIXTURES)
    try:
        from make_nf4_reference import fnv, weights
    finally:
        sys.path.remove(FIXTURES)
    with open(f"{FIXTURES}/nf4_quantize_reference.inc", encoding="utf-8") as file:
        stored = {name: int(bits, 16) for name, bits in re.findall(r'{"([^"]+)", 0x([0-9A-F]{16})u}', file.read())}
    for count in sorted({int(name.split()[1]) for name in stored}):
        for kind, data in quantize(weights(count)).items():
            assert fnv(np.asarray(data).tobytes()) == stored[f"{kind} {count}"], f"{kind} of {count} numbers are not bitsandbytes'"
