"""Pickles of NVlabs' networks (StyleGAN, EDM), read without running anything that is in them.

Their format stores of an object its class's name, its state and the source code of its module, all behind one call of
``torch_utils.persistence._reconstruct_persistent_obj``; whoever unpickles it the usual way executes that source. Here
the unpickler knows a dozen names and maps each to a function or class of this file, which keeps what it is given and
does nothing else: plain values, tensors (their storages by torch's own restricted reader) and :class:`Stored` objects
come out. Any other name ends the reading.

Reference: github.com/NVlabs/edm, torch_utils/persistence.py, whose version 6 this is.
"""

import io
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pretrained.tensors import read_tensors
from solvers.errors import UsageError

# Number types of numpy's scalars: kind and bytes.
NUMBER = re.compile(r"[fiu][1248]|b1")
CONTAINERS = ("ModuleDict", "ModuleList", "Sequential")


class Stored:
    """An object of a class that is not here.

    Attributes:
        name: of its class; empty for torch's containers of modules.
        state: its attributes.
    """

    def __init__(self, name: str = "", state: dict[str, Any] | None = None) -> None:
        self.name = name
        self.state = state if state is not None else {}

    def __new__(cls, *arguments: Any) -> "Stored":
        """Without arguments, as a pickle makes an object whose state follows."""
        stored = super().__new__(cls)
        Stored.__init__(stored, *arguments)
        return stored

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.state = _expect(state, dict, "the state of an object")

    def tensors(self, prefix: str = "") -> dict[str, Tensor]:
        """Parameters and buffers of a module and of those inside it, named as in torch's state dicts."""
        found = {}
        for section in ("_parameters", "_buffers"):
            for name, value in _expect(self.state.get(section, {}), dict, section).items():
                if value is not None:
                    found[f"{prefix}{name}"] = _expect(value, Tensor, f"{prefix}{name}")
        for name, module in _expect(self.state.get("_modules", {}), dict, "_modules").items():
            if module is not None:
                found |= _expect(module, Stored, f"{prefix}{name}").tensors(f"{prefix}{name}.")
        return found


def read(path: Path) -> Any:
    """What a pickle holds.

    Raises:
        UsageError: no such file, it is damaged, or it holds anything but plain values, tensors and persistent objects;
            the text names the first such thing.
    """
    if not path.is_file():
        raise UsageError("load", "there is no such file", str(path), "Give a network's pickle (.pkl)")
    try:
        with path.open("rb") as file:
            return _Unpickler(file).load()
    except Exception as error:  # damaged files end in errors of every kind
        what = str(error).strip().partition("\n")[0]
        rule = "the pickle holds plain values, tensors and NVlabs' persistent objects alone"
        todo = "Take the authors' file; one that holds anything else is never opened"
        raise UsageError(f"load {path}", rule, f"{type(error).__name__}: {what}"[:300], todo) from error


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: Any) -> None:
        super().__init__(file)
        self._names = _names()

    def find_class(self, module: str, name: str, /) -> Any:
        if (module, name) not in self._names:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return self._names[module, name]


def _names() -> dict[tuple[str, str], Callable[..., Any]]:
    """What the unpickler knows.

    All but the builtins are made anew for every file: a pickle may set attributes of what it is handed.
    """

    class Container(Stored):
        pass

    class Mapping(dict[Any, Any]):
        pass

    class Number:
        """numpy's dtype of a scalar."""

        def __init__(self, kind: str, *flags: bool) -> None:
            self.kind, self.order = kind, "<"

        def __setstate__(self, state: tuple[Any, ...]) -> None:
            self.order = ">" if state[1] == ">" else "<"

        def value(self, raw: bytes) -> Any:
            if not NUMBER.fullmatch(self.kind):
                raise pickle.UnpicklingError(f"a scalar of type {self.kind}")
            return np.frombuffer(raw, self.order + self.kind, count=1).item()

    def persistent(meta: dict[str, Any]) -> Stored:
        return Stored(
            _expect(meta["class_name"], str, "class_name"), _expect(meta["state"], dict, "the state of an object")
        )

    def storage(content: bytes) -> Any:
        return read_tensors(io.BytesIO(content))

    def tensor(data: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *rest: Any) -> Tensor:
        _expect(data, torch.storage.TypedStorage, "the storage of a tensor")
        whole = torch.empty(0, dtype=data.dtype).set_(data._untyped_storage)
        # as_strided keeps to the storage, where set_ itself would enlarge it.
        values: Tensor = whole.as_strided(size, stride, offset).clone()
        return values

    def parameter(data: Any, *rest: Any) -> Any:
        return _expect(data, Tensor, "a parameter")

    def scalar(kind: Number, raw: bytes) -> Any:
        return _expect(kind, Number, "a number's type").value(raw)

    names: dict[tuple[str, str], Callable[..., Any]] = {
        ("torch_utils.persistence", "_reconstruct_persistent_obj"): persistent,
        ("torch._utils", "_rebuild_tensor_v2"): tensor,
        ("torch._utils", "_rebuild_parameter"): parameter,
        ("torch.storage", "_load_from_bytes"): storage,
        ("numpy", "dtype"): Number,
        ("dnnlib.util", "EasyDict"): Mapping,
        ("collections", "OrderedDict"): OrderedDict,
        ("builtins", "set"): set,
    }
    names |= {("torch.nn.modules.container", name): Container for name in CONTAINERS}
    # The second name is numpy 2's.
    return names | {(f"numpy.{core}.multiarray", "scalar"): scalar for core in ("core", "_core")}


def _expect(value: Any, kind: type, what: str) -> Any:
    """The value, if it is of that kind."""
    if not isinstance(value, kind):
        raise pickle.UnpicklingError(f"{what} is a {type(value).__name__}")
    return value
