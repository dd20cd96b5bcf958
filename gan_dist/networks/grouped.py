"""Convolve in groups without the loop over groups of torch's double backward.

torch computes the second gradient of a grouped convolution group by group, even where the weight is a constant filter: 768
convolutions for 768 channels. Here the convolution and the gradient of its weight are two functions that are each other's
derivatives. Each is one kernel, so a double backward has as many kernels with 768 groups as with one.
"""

import contextlib
import dataclasses
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional

Pair = tuple[int, int]


def conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int = 1, padding: int = 0, groups: int = 1
) -> Tensor:
    """Return torch's conv2d of (N, C, H, W) by a weight (out, C / groups, k, k), which may be differentiated any number of times."""
    if _is_plain(x, groups):
        return functional.conv2d(x, weight, bias, stride, padding, groups=groups)
    return _grouped(x, weight, bias, _Form((stride, stride), (padding, padding), (0, 0), False, groups))


def conv_transpose2d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int = 1, padding: int = 0, groups: int = 1
) -> Tensor:
    """Return torch's conv_transpose2d of (N, C, H, W) by a weight (C, out / groups, k, k), likewise."""
    if _is_plain(x, groups):
        return functional.conv_transpose2d(x, weight, bias, stride, padding, groups=groups)
    return _grouped(x, weight, bias, _Form((stride, stride), (padding, padding), (0, 0), True, groups))


class Conv2d(nn.Conv2d):
    """torch's convolution for a network with groups that a penalty differentiates, without what nothing here needs of it."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride, padding, groups=groups, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return conv2d(x, self.weight, self.bias, self.stride[0], cast(Pair, self.padding)[0], self.groups)


@dataclasses.dataclass(frozen=True)
class _Form:
    """What a convolution does beside its weight."""

    stride: Pair
    padding: Pair
    output_padding: Pair
    transposed: bool
    groups: int

    def reversed(self, inputs: torch.Size, outputs: torch.Size, kernel: torch.Size) -> "_Form":
        """Return the convolution by the same weight that turns gradients of the outputs into those of the inputs."""
        if self.transposed:
            return dataclasses.replace(self, transposed=False, output_padding=(0, 0))
        # rows and columns at the end of the input that the stride left over
        rest = [
            inputs[axis] - ((outputs[axis] - 1) * self.stride[axis] - 2 * self.padding[axis] + kernel[axis])
            for axis in (-2, -1)
        ]
        return dataclasses.replace(self, transposed=True, output_padding=(rest[0], rest[1]))


class _Convolution(Function):
    """The convolution; also the gradient of its input, which is the reversed convolution."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, form: _Form) -> Tensor:
        needs_x, needs_weight, _ = ctx.needs_input_grad
        # a constant filter needs no inputs in its backward
        ctx.save_for_backward(x if needs_weight else None, weight if needs_x else None)
        ctx.form, ctx.inputs, ctx.kernel = form, x.shape, weight.shape
        with _no_autocast(x):
            return cast(
                Tensor,
                torch.ops.aten.convolution(
                    x,
                    weight,
                    None,
                    form.stride,
                    form.padding,
                    (1, 1),
                    form.transposed,
                    form.output_padding,
                    form.groups,
                ),
            )

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        of_x = of_weight = None
        if ctx.needs_input_grad[0]:
            of_x = _convolve(gradient, weight, ctx.form.reversed(ctx.inputs, gradient.shape, ctx.kernel))
        if ctx.needs_input_grad[1]:
            of_weight = _WeightGradient.apply(x, gradient, ctx.kernel, ctx.form)
        return of_x, of_weight, None


class _WeightGradient(Function):
    """The gradient of a convolution's weight, from its inputs and the gradient of its outputs: linear in both."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gradient: Tensor, kernel: torch.Size, form: _Form) -> Tensor:
        needs_x, needs_gradient, *_ = ctx.needs_input_grad
        ctx.save_for_backward(x if needs_gradient else None, gradient if needs_x else None)
        ctx.form, ctx.inputs, ctx.kernel = form, x.shape, kernel
        ctx.outputs = gradient.shape
        weight = x.new_empty(1).expand(kernel)  # only its shape is looked at
        with _no_autocast(x):
            _, of_weight, _ = torch.ops.aten.convolution_backward(
                gradient, x, weight, None, form.stride, form.padding, (1, 1), form.transposed, form.output_padding,
                form.groups, (False, True, False),
            )  # fmt: skip
        return cast(Tensor, of_weight)

    @staticmethod
    def backward(ctx: Any, direction: Tensor) -> Any:
        x, gradient = ctx.saved_tensors
        of_x = of_gradient = None
        if ctx.needs_input_grad[0]:
            of_x = _convolve(gradient, direction, ctx.form.reversed(ctx.inputs, ctx.outputs, ctx.kernel))
        if ctx.needs_input_grad[1]:
            of_gradient = _convolve(x, direction, ctx.form)
        return of_x, of_gradient, None, None


def _convolve(x: Tensor, weight: Tensor, form: _Form) -> Tensor:
    return cast(Tensor, _Convolution.apply(x, weight, form))


def _in_autocast(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return both in the type in which autocast convolves: it does not see into a Function."""
    if not torch.is_autocast_enabled(x.device.type):
        return x, weight
    dtype = torch.get_autocast_dtype(x.device.type)
    return x.to(dtype), weight.to(dtype)


def _no_autocast(x: Tensor) -> contextlib.AbstractContextManager[Any]:
    """Compute in the type that the tensors have: a backward may run where autocast is on again."""
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else contextlib.nullcontext()


def _is_plain(x: Tensor, groups: int) -> bool:
    """Whether torch's own convolution does as well, or must do: the compiler does not see into a Function."""
    return groups == 1 or not x.numel() or torch.compiler.is_compiling()


def _grouped(x: Tensor, weight: Tensor, bias: Tensor | None, form: _Form) -> Tensor:
    made = _convolve(*_in_autocast(x, weight), form)
    return made if bias is None else made + bias.to(made.dtype)[:, None, None]
