"""The CUDA path without a GPU: a captured step, a checkpoint and a prediction of several runs on
fake tensors, which have a device, a type and strides but no values.

Found here: a tensor on the wrong device, a wait for the device inside a step, a CPU tensor whose
change a graph would not see, a gradient or state of another type, device or layout than its
parameter. Only a GPU can say whether the capture succeeds, how much memory it takes, what the
values are and how fast it is. What is replaced below is PyTorch's inside, so the file is collected
only for the versions it was tried in (see conftest.py)."""

from collections import Counter, defaultdict
from functools import partial

import pytest
import torch
from test_cuda_graph import call_instead
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from cifarlib import checkpoint, loop
from cifarlib.device import cuda_graph
from cifarlib.device.cuda_graph import CapturedStep
from cifarlib.evaluate import Predictor
from cifarlib.loop import Lookahead, Training, make_optimizer, train_epoch
from cifarlib.model import build_model
from cifarlib.params import load_params
from cifarlib.preprocess import Normalizer, channel_statistics, make_normalizer, normalize

CUDA = torch.device("cuda:0")
RUNS = ["run1", "run2", "run6-image-channel", "run7-mean", "run7-preprocessed", "best"]
ROW = {"epoch": 1, "last_batch_loss": 1.0, "train_seconds": 1.0}
CASES = [(run, torch.bfloat16) for run in RUNS] + [("run2", torch.float16), ("run1", torch.float32)]


def backward(loss):
    """loss.backward() in Python: PyTorch's own asks the driver for the device's context."""
    waiting, order, ready = Counter(), [loss.grad_fn], [loss.grad_fn]
    for node in order:
        parents = [parent for parent, _ in node.next_functions if parent is not None]
        order += [parent for parent in dict.fromkeys(parents) if parent not in waiting]
        waiting.update(parents)
    gradients = defaultdict(dict, {loss.grad_fn: {0: torch.ones_like(loss)}})
    with torch.no_grad():
        while ready:
            node = ready.pop()
            incoming = gradients.pop(node)
            if hasattr(node, "variable"):
                parameter, gradient = node.variable, incoming[0]
                for name in ("device", "dtype", "shape"):
                    assert getattr(gradient, name) == getattr(parameter, name)
                parameter.grad = torch.empty_like(parameter).copy_(gradient)
                continue
            outgoing = node(*(incoming.get(i) for i in range(max(incoming) + 1)))
            outgoing = outgoing if isinstance(outgoing, tuple) else (outgoing,)
            for (parent, i), gradient in zip(node.next_functions, outgoing, strict=True):
                if parent is not None and gradient is not None:
                    before = gradients[parent].get(i)
                    gradients[parent][i] = gradient if before is None else before + gradient
                waiting[parent] -= 1
                if parent is not None and not waiting[parent]:
                    ready.append(parent)


def convert(module, function, recurse=True):
    """module.to(...), for which PyTorch would swap the insides of tensors."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = nn.Parameter(
                    function(parameter.detach()), parameter.requires_grad
                )
        part._buffers.update({name: function(buffer) for name, buffer in part._buffers.items()})
    return module


class FusedOptimizers(TorchDispatchMode):
    """Fused optimizers have no fake kernel; this asks of their tensors what the real ones do."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if not function._schema.name.startswith("aten::_fused_"):
            return function(*args, **(kwargs or {}))
        lists = [a for a in args if a and len(a) == len(args[0])]
        steps = lists.pop() if "adam" in function._schema.name else []
        for tensors in zip(*lists, strict=True):
            assert len({(t.device, t.dtype, t.shape, t.stride()) for t in tensors}) == 1
        assert all(t.device == CUDA for t in [*steps, kwargs["lr"]])


class OnlyCuda(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves((args, kwargs, result)):
            on_cuda = not isinstance(tensor, torch.Tensor) or tensor.device == CUDA
            assert on_cuda, f"{function} in a captured step, on {tensor.device}"
        return result


def run_instead_of_capture(step, device):
    step()
    with OnlyCuda():
        step()
    return call_instead(step, device)


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda *_, **__: True)
    monkeypatch.setattr(torch.Tensor, "backward", backward)
    monkeypatch.setattr(nn.Module, "_apply", convert)
    monkeypatch.setattr(cuda_graph, "capture", run_instead_of_capture)
    monkeypatch.setattr(loop, "epoch_row", lambda *_: {})  # the only place that reads values
    monkeypatch.setattr(Lookahead, "IMAGES", 128)
    with FakeTensorMode(allow_non_fake_inputs=True), FusedOptimizers():
        yield


@pytest.mark.parametrize(("run", "dtype"), CASES)
def test_a_run_stays_on_the_device_and_goes_on_from_its_checkpoint(
    run, dtype, small, fake, monkeypatch, tmp_path
):
    p = load_params(run, train_images=256, batch_size=128)
    images, labels = small.train.images[:256], small.train.labels[:256].to(CUDA)
    statistics = channel_statistics(images)
    on_cpu = make_normalizer(images, p.normalization, statistics)
    normalizer = Normalizer(on_cpu.mean.to(CUDA), on_cpu.std.to(CUDA))
    images = images.to(CUDA).contiguous(memory_format=torch.channels_last)

    def start() -> Training:
        model = build_model(0, torch.zeros(24, 3, 2, 2) if p.whitening else None, p.dirac).to(CUDA)
        model = model.to(memory_format=torch.channels_last)
        lookahead = Lookahead(p, model) if p.lookahead else None
        return Training(
            p, model, make_optimizer(p, model), images, labels, normalizer, dtype, lookahead
        )

    first = start()
    train_epoch(first, 1, update=CapturedStep(first))
    for group in first.optimizer.param_groups:
        assert group.get("capturable", True)

    saved = {}
    to_cpu = partial(tree_map_only, torch.Tensor, torch.Tensor.cpu)  # as torch.load does
    monkeypatch.setattr(torch, "save", lambda state, file: saved.update(to_cpu(state)))
    (tmp_path / "unfinished").mkdir()
    checkpoint.save(tmp_path, first.state_dict() | {"history": [ROW]})
    copy = lambda self, new: [t.copy_(new[k]) for k, t in self.state_dict().items()]  # noqa: E731
    monkeypatch.setattr(nn.Module, "load_state_dict", copy)
    second = start()
    second.load_state_dict(saved)
    for parameter, state in second.optimizer.state.items():
        assert all(
            t.device == CUDA and (not t.dim() or t.stride() == parameter.stride())
            for t in state.values()
        )
    train_epoch(second, 2, update=CapturedStep(second))

    chosen = small.validation.images[:50].to(CUDA)
    normalised = partial(normalize, mode=p.normalization, statistics=statistics)
    predictor = Predictor(second.model, normalised, dtype)
    for views in (False, True):
        logits = predictor.logits(chosen, views=views)
        assert (logits.device, logits.dtype, logits.shape) == (CUDA, torch.float32, (50, 10))
