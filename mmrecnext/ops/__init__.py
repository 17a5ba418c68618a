"""What the layers compute, wherever a plain PyTorch call would pass over memory twice.

Each function chooses the way that suits the device, the dtype and whether gradients are
asked for; all ways give the same result.
"""
