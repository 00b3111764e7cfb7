"""DenseNet-121 and Inception-v3 as operators of an int8 TFLite file: the two networks whose graphs are not in the data.

Layers, sizes and branches are those of ``keras.applications`` (Huang et al. 2017; Szegedy et al. 2016), taken apart as
the other graphs are: batch norms behind a convolution are in its weights, those in front of one are a multiplication
and an addition with constants of one byte per channel; activations and paddings ride on their neighbours; weights have
one byte, biases four. Order is that of a walk back from the output which visits operands in turn, as in the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from instar.schedulers.scratchpad.problem import Operator, Problem, Tensor, Window

Pad = Literal["same", "valid"] | tuple[int, int, int, int]


@dataclass
class Graph:
    """Operators on images with batch 1; tensors are positions, the network's input is 0."""

    name: str
    size: int
    tensors: list[Tensor] = field(default_factory=list[Tensor])
    operators: list[Operator] = field(default_factory=list[Operator])

    def __post_init__(self) -> None:
        shape = (1, self.size, self.size, 3)
        self.tensors.append(Tensor("network input", 3 * self.size**2, shape, "input"))

    def shape(self, tensor: int) -> tuple[int, ...]:
        """Batch, height, width, channels."""
        return self.tensors[tensor].shape

    def add(
        self,
        kind: str,
        inputs: tuple[int, ...],
        shape: tuple[int, ...],
        *,
        weights: int = 0,
        macs: int = 0,
        window: Window | None = None,
        activation: str = "",
    ) -> int:
        """One operator; gives the position of its result."""
        size = 1
        for extent in shape:
            size *= extent
        place = len(self.tensors)
        self.tensors.append(Tensor(f"{kind}_{place}", size, shape))
        axis = 3 if kind == "concatenation" else None
        self.operators.append(
            Operator(f"{kind}_{place}", kind, inputs, place, weights, macs, window, axis=axis, activation=activation)
        )
        return place

    def conv(self, x: int, channels: int, kernel: tuple[int, int] = (1, 1), stride: int = 1, pad: Pad = "same") -> int:
        """Convolution with a bias and an activation."""
        window = Window(kernel, (stride, stride), pad=pad)
        before = self.shape(x)[3]
        height, width = self._after(x, window)
        each = kernel[0] * kernel[1] * before
        return self.add(
            "conv_2d", (x,), (1, height, width, channels), weights=(each + 4) * channels,
            macs=height * width * each * channels, window=window, activation="relu",
        )  # fmt: skip

    def pool(self, kind: str, x: int, size: int, stride: int, pad: Pad = "valid") -> int:
        """Pooling over squares."""
        window = Window((size, size), (stride, stride), pad=pad)
        return self.add(kind, (x,), (1, *self._after(x, window), self.shape(x)[3]), window=window)

    def _after(self, x: int, window: Window) -> tuple[int, int]:
        _, height, width, _ = self.shape(x)
        if window.pad == "same":
            return -(-height // window.stride[0]), -(-width // window.stride[1])
        top, bottom, left, right = (0, 0, 0, 0) if isinstance(window.pad, str) else window.pad
        rows, columns = height + top + bottom - window.kernel[0], width + left + right - window.kernel[1]
        return rows // window.stride[0] + 1, columns // window.stride[1] + 1

    def norm(self, x: int) -> int:
        """Batch norm and ReLU in front of a convolution."""
        shape = self.shape(x)
        scaled = self.add("mul", (x,), shape, weights=shape[3])
        return self.add("add", (scaled,), shape, weights=shape[3], activation="relu")

    def join(self, *parts: int) -> int:
        """Concatenation of channels."""
        shapes = [self.shape(part) for part in parts]
        return self.add("concatenation", parts, (*shapes[0][:3], sum(shape[3] for shape in shapes)))

    def classifier(self, x: int) -> Problem:
        """Mean, 1000 classes, softmax."""
        channels = self.shape(x)[3]
        mean = self.add("mean", (x,), (1, channels))
        last = self.add("fully_connected", (mean,), (1, 1000), weights=1000 * (channels + 4), macs=1000 * channels)
        self.add("softmax", (last,), (1, 1000))
        self.tensors[-1] = Tensor(self.tensors[-1].name, 1000, (1, 1000), "output")
        return Problem(self.name, tuple(self.tensors), tuple(self.operators))


def densenet121() -> Problem:
    """DenseNet-121 at 224 x 224: 309 operators, 2,834 million MACs."""
    net = Graph("densenet121_224", 224)
    x = net.pool("max_pool_2d", net.conv(0, 64, (7, 7), 2, (3, 3, 3, 3)), 3, 2, (1, 1, 1, 1))
    for block, layers in enumerate((6, 12, 24, 16)):
        if block:
            x = net.conv(net.norm(x), net.shape(x)[3] // 2)
            x = net.pool("average_pool_2d", x, 2, 2)
        for _ in range(layers):
            grown = net.conv(net.conv(net.norm(x), 128), 32, (3, 3))
            x = net.join(x, grown)
    return net.classifier(net.norm(x))


def inception_v3() -> Problem:
    """Inception-v3 at 299 x 299: 125 operators, 5,713 million MACs."""
    net = Graph("inceptionv3_299", 299)
    x = net.conv(0, 32, (3, 3), 2, "valid")
    x = net.conv(net.conv(x, 32, (3, 3), pad="valid"), 64, (3, 3))
    x = net.pool("max_pool_2d", x, 3, 2)
    x = net.conv(net.conv(x, 80, pad="valid"), 192, (3, 3), pad="valid")
    x = net.pool("max_pool_2d", x, 3, 2)
    for pooled in (32, 64, 64):
        x = _block35(net, x, pooled)
    small = net.conv(net.conv(x, 64), 96, (3, 3))
    x = net.join(
        net.conv(x, 384, (3, 3), 2, "valid"),
        net.conv(small, 96, (3, 3), 2, "valid"),
        net.pool("max_pool_2d", x, 3, 2),
    )
    for inner in (128, 160, 160, 192):
        x = _block17(net, x, inner)
    small = net.conv(net.conv(net.conv(x, 192), 192, (1, 7)), 192, (7, 1))
    x = net.join(
        net.conv(net.conv(x, 192), 320, (3, 3), 2, "valid"),
        net.conv(small, 192, (3, 3), 2, "valid"),
        net.pool("max_pool_2d", x, 3, 2),
    )
    for _ in range(2):
        x = _block8(net, x)
    return net.classifier(x)


def _pooled(net: Graph, x: int, channels: int) -> int:
    return net.conv(net.pool("average_pool_2d", x, 3, 1, "same"), channels)


def _block35(net: Graph, x: int, pooled: int) -> int:
    one = net.conv(x, 64)
    five = net.conv(net.conv(x, 48), 64, (5, 5))
    three = net.conv(net.conv(net.conv(x, 64), 96, (3, 3)), 96, (3, 3))
    return net.join(one, five, three, _pooled(net, x, pooled))


def _block17(net: Graph, x: int, inner: int) -> int:
    one = net.conv(x, 192)
    seven = net.conv(net.conv(net.conv(x, inner), inner, (1, 7)), 192, (7, 1))
    twice = net.conv(net.conv(net.conv(x, inner), inner, (7, 1)), inner, (1, 7))
    twice = net.conv(net.conv(twice, inner, (7, 1)), 192, (1, 7))
    return net.join(one, seven, twice, _pooled(net, x, 192))


def _block8(net: Graph, x: int) -> int:
    def both(y: int) -> int:
        return net.join(net.conv(y, 384, (1, 3)), net.conv(y, 384, (3, 1)))

    one = net.conv(x, 320)
    three = both(net.conv(x, 384))
    twice = both(net.conv(net.conv(x, 448), 384, (3, 3)))
    return net.join(one, three, twice, _pooled(net, x, 192))


NETWORKS: Mapping[str, Callable[[], Problem]] = MappingProxyType(
    {"densenet121_224": densenet121, "inceptionv3_299": inception_v3}
)
"""Name in Vela's measurements -> graph."""
