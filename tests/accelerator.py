"""An accelerator that no machine has: what would fail on a GPU fails on it.

Its tensors lie in main memory, but cannot be mixed with the CPU's.
To PyTorch it is a device of its own, `emulated`, so `.to`, factories, autograd, hooks and
`.numpy()` do what they do on a GPU; every operation then runs on the CPU's kernels, after a look at
where its tensors are. Import it before the first backward pass of a process: autograd counts the
devices once.
"""
from functools import partial

import torch
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "emulated"
aten = torch.ops.aten
# what moves values from one device to another
BETWEEN = {aten.copy_.default, aten._to_copy.default}
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default,
            aten._index_put_impl_.default}
FILLING = {aten.fill_.Tensor, aten.fill.Tensor, aten.masked_fill_.Tensor,
           aten.masked_fill.Tensor} | INDEXING


class Emulated(torch.Tensor):
    """A tensor of the device; `held`, on the CPU, has its values.

    A device without float64 is like Apple's GPUs.
    """
    has_float64 = True
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held):
        if held.dtype == torch.float64 and not cls.has_float64:
            raise TypeError("the device has no float64")
        made = torch.Tensor._make_wrapper_subclass(cls, held.size(), strides=held.stride(),
                                                   storage_offset=held.storage_offset(),
                                                   dtype=held.dtype, device=torch.device(NAME, 0))
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, op, types, args=(), kwargs=None):
        return compute(op, *args, **kwargs or {})

    # PyTorch has this, and the two below, only for tensors of no class of their own
    def tolist(self):
        return self.cpu().tolist()

    def __format__(self, how):
        return format(self.detach().cpu(), how)

    def numpy(self):
        raise TypeError(f"can't convert {NAME}:0 device type tensor to numpy. Use "
                        "Tensor.cpu() to copy the tensor to host memory first.")


def compute(op, *args, **kwargs):
    """The result of an operation that has to do with the device.

    Raises RuntimeError for tensors of two devices.
    """
    given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    # forward mode asks only for the shape of a product with nothing
    if any(x.is_meta for x in given):
        return op(*tree_map(as_meta, args), **tree_map(as_meta, kwargs))
    there = (any(isinstance(x, Emulated) for x in given) if kwargs.get("device") is None
             else kwargs["device"].type == NAME)
    check(op, args, kwargs, there)
    # forward mode's zeros without memory, which the kernels below cannot read
    if op is aten._efficientzerotensor.default:
        op = aten.zeros.default
    if "device" in kwargs:
        kwargs["device"] = torch.device("cpu")
    found = op(*tree_map(held, args), **tree_map(held, kwargs))
    kept = all(x.shape == held(x).shape for x in given)
    assert kept, f"{op} changes the shape of its argument, which is not emulated"
    same = {id(held(x)): x for x in given}  # what works in place gives its argument back

    def wrapped(x):
        if id(x) in same:
            return same[id(x)]
        return Emulated(x) if there and isinstance(x, torch.Tensor) else x
    return tree_map(wrapped, found)


def as_meta(x):
    return held(x).to("meta") if isinstance(x, torch.Tensor) else x


def held(x):
    return x.held if isinstance(x, Emulated) else x


def check(op, args, kwargs, there):
    """Raises where a GPU would.

    It takes from the CPU only indices, and single numbers in elementwise operations.
    """
    generator = kwargs.get("generator")
    if there and generator is not None and generator.device.type == "cpu":
        raise RuntimeError(f"Expected a '{NAME}' device type for generator but found 'cpu'")
    if op in INDEXING and isinstance(args[0], Emulated):
        args = args[:1] + args[2:]
    given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    written = args[0] if op._schema.is_mutable else None
    foreign = [x for x in given if not isinstance(x, Emulated)
               and not (x.dim() == 0 and x is not written
                        and (op in FILLING or torch.Tag.pointwise in op.tags))]
    if foreign and len(foreign) < len(given) and op not in BETWEEN:
        raise RuntimeError("Expected all tensors to be on the same device, but found at least two "
                           f"devices, {NAME}:0 and cpu! ({op})")


_setup_privateuseone_for_python_backend(NAME)
# to those who look for any: it is not for the other tests of a process
torch.get_device_module(NAME).is_available = lambda: False
# they live as long as this name
_libraries = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
_libraries[0].fallback(compute, "PrivateUse1")
# A fallback is not asked about tensors of a class (`torch.tensor(…, device=…)` copies one), nor
# where PyTorch resizes an empty one
for packet in (aten.copy_, aten.arange, aten.eye, aten.linspace, aten.randperm):
    for op in (getattr(packet, name) for name in packet.overloads() if not name.endswith("out")):
        _libraries[1].impl(op, partial(compute, op), "PrivateUse1")
