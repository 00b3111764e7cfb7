"""Small networks for the tests: built by hand, and random ones from a seed."""

from __future__ import annotations

import random

from instar.schedulers.scratchpad.problem import Operator, Problem, Role, Tensor, Window


class Builder:
    """Collects operators on images of int8 with batch 1."""

    def __init__(self, height: int, width: int, channels: int) -> None:
        shape = (1, height, width, channels)
        self.tensors = [Tensor("input", height * width * channels, shape, "input")]
        self.operators: list[Operator] = []

    def add(
        self,
        kind: str,
        inputs: tuple[int, ...],
        shape: tuple[int, ...],
        *,
        weights: int = 0,
        window: Window | None = None,
        role: Role = "activation",
    ) -> int:
        size = 1
        for extent in shape:
            size *= extent
        place = len(self.tensors)
        self.tensors.append(Tensor(f"t{place}", size, shape, role))
        axis = -1 if kind == "concatenation" else None
        self.operators.append(
            Operator(f"o{place}", kind, inputs, place, weight_bytes=weights, window=window, axis=axis)
        )
        return place

    def conv(self, source: int, channels: int, kernel: int = 3, stride: int = 1, role: Role = "activation") -> int:
        _, height, width, before = self.tensors[source].shape
        window = Window((kernel, kernel), (stride, stride), pad="same")
        shape = (1, -(-height // stride), -(-width // stride), channels)
        return self.add(
            "conv_2d", (source,), shape, weights=kernel * kernel * before * channels, window=window, role=role
        )

    def join(self, *sources: int, role: Role = "activation") -> int:
        shapes = [self.tensors[source].shape for source in sources]
        return self.add("concatenation", sources, (*shapes[0][:3], sum(s[3] for s in shapes)), role=role)

    def sum(self, left: int, right: int, role: Role = "activation") -> int:
        return self.add("add", (left, right), self.tensors[left].shape, role=role)

    def problem(self, name: str = "net") -> Problem:
        readers = {tensor for operator in self.operators for tensor in operator.inputs}
        tensors = [
            Tensor(t.name, t.size_bytes, t.shape, "output" if place not in readers and t.role != "input" else t.role)
            for place, t in enumerate(self.tensors)
        ]
        return Problem(name, tuple(tensors), tuple(self.operators))


def residual(height: int = 16, channels: int = 8) -> Problem:
    """A stem, two residual blocks, one with a stride, and a head."""
    net = Builder(height, height, 3)
    stem = net.conv(0, channels)
    first = net.sum(net.conv(net.conv(stem, 2 * channels, 1), channels), stem)
    second = net.sum(net.conv(first, 2 * channels, 3, 2), net.conv(first, 2 * channels, 1, 2))
    net.add("mean", (second,), (1, 1, 1, 2 * channels))
    return net.problem("residual")


def forked(height: int = 16) -> Problem:
    """A skip over a valley, joined by a concatenation, as in a U-Net."""
    net = Builder(height, height, 4)
    high = net.conv(0, 8)
    low = net.conv(net.conv(high, 8, 3, 2), 8)
    up = net.add("resize_nearest_neighbor", (low,), (1, height, height, 8))
    net.conv(net.join(up, high), 4)
    return net.problem("forked")


def random_network(seed: int, operators: int) -> Problem:
    """Convolutions, sums, concatenations, poolings and activations on tensors that were made before."""
    choose = random.Random(seed)
    net = Builder(choose.choice((5, 8)), choose.choice((1, 3)), choose.choice((1, 4)))
    known = [0]
    while len(net.operators) < operators:
        source = choose.choice(known[-4:])
        shape = net.tensors[source].shape
        alike = [t for t in known if t != source and net.tensors[t].shape[:3] == shape[:3]]
        equal = [t for t in alike if net.tensors[t].shape == shape]
        kind = choose.choice(("conv", "conv", "pool", "relu", "sum", "join", "softmax", "mean"))
        if kind == "conv":
            known.append(net.conv(source, choose.choice((1, 4, 8)), choose.choice((1, 3)), choose.choice((1, 1, 2))))
        elif kind == "pool":
            window = Window((2, 2), (2, 2))
            small = (1, max(shape[1] // 2, 1), max(shape[2] // 2, 1), shape[3])
            if shape[1] > 1 and shape[2] > 1:
                known.append(net.add("max_pool_2d", (source,), small, window=window))
        elif kind in ("relu", "softmax"):
            known.append(net.add(kind, (source,), shape))
        elif kind == "mean":
            known.append(net.add("mean", (source,), (1, 1, 1, shape[3])))
        elif kind == "sum" and equal:
            known.append(net.sum(source, choose.choice(equal)))
        elif kind == "join" and alike:
            known.append(net.join(source, choose.choice(alike)))
    return net.problem(f"random-{seed}")
