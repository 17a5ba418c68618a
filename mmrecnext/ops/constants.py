"""Numbers that an operation and its kernels have in common."""

EPSILON = 1e-6
"""What linear attention adds to what it divides by."""

HEAD_CHANNELS = (16, 32, 64, 128)
"""Of queries or values in a head of attention, as the kernels pad them."""

INTERPOLATIONS = ('bilinear', 'nearest')
"""How recursive convolution may enlarge maps with no weights of its own."""

KERNEL_SIZES = (3, 5, 7)
"""Sides of the kernels that recursive convolution has a Triton kernel for."""
