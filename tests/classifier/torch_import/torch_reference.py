"""The published classifier in PyTorch, and checkpoints of it; the only file that imports torch.

    pip install torch && python -m tests.classifier.torch_import.torch_reference

writes torch_zip.pth and torch_legacy.pth, a tiny module and its state dict as PyTorch 2.13.0
pickles them, with which the reader is tested where PyTorch is not installed. (A whole module in the
legacy format would hold PyTorch's source.)
"""

import pathlib

import torch
from torch import nn
from torch.nn import functional as F

FOLDER = pathlib.Path(__file__).parent


class Bottleneck(nn.Module):
    def __init__(self, before, after, stride):
        super().__init__()
        inner = 2 * after
        self.conv_reduce = nn.Conv2d(before, inner, 1, bias=False)
        self.bn_reduce = nn.BatchNorm2d(inner)
        self.conv_conv = nn.Conv2d(inner, inner, 3, stride, padding=1, groups=8, bias=False)
        self.bn = nn.BatchNorm2d(inner)
        self.conv_expand = nn.Conv2d(inner, after, 1, bias=False)
        self.bn_expand = nn.BatchNorm2d(after)
        self.shortcut = nn.Sequential()
        if before != after:
            self.shortcut.add_module(
                "shortcut_conv", nn.Conv2d(before, after, 1, stride, bias=False)
            )
            self.shortcut.add_module("shortcut_bn", nn.BatchNorm2d(after))

    def forward(self, x):
        y = F.relu(self.bn_reduce(self.conv_reduce(x)))
        y = F.relu(self.bn(self.conv_conv(y)))
        return F.relu(self.shortcut(x) + self.bn_expand(self.conv_expand(y)))


class ResNeXt29(nn.Module):
    """The names of the published module; its attributes that are no tensors as well."""

    def __init__(self):
        super().__init__()
        self.cardinality, self.depth, self.stages = 8, 29, [64, 256, 512, 1024]
        self.conv_1_3x3 = nn.Conv2d(1, 64, 3, padding=1, bias=False)
        self.bn_1 = nn.BatchNorm2d(64)
        self.stage_1 = self._stage("stage_1", 64, 256, 1)
        self.stage_2 = self._stage("stage_2", 256, 512, 2)
        self.stage_3 = self._stage("stage_3", 512, 1024, 2)
        self.classifier = nn.Linear(1024, 10)

    def _stage(self, name, before, after, stride):
        stage = nn.Sequential()
        for i in range(3):
            block = Bottleneck(before if i == 0 else after, after, stride if i == 0 else 1)
            stage.add_module(f"{name}_bottleneck_{i}", block)
        return stage

    def forward(self, mels):
        """[b, mels, frames] -> (logits, features)."""
        x = F.relu(self.bn_1(self.conv_1_3x3(mels[:, None])))
        x = self.stage_3(self.stage_2(self.stage_1(x)))
        features = F.avg_pool2d(x, 8, 1).view(-1, 1024)
        return self.classifier(features), features


def resnext(tensors):
    """The module with these tensors, NumPy arrays by name."""
    module = ResNeXt29()
    module.load_state_dict({name: torch.tensor(array) for name, array in tensors.items()})
    return module.eval()


def tiny_module():
    """Formulas for tensors: float32, float64 and int64, a transposed view, a shared storage."""
    module = nn.Sequential(nn.Conv2d(2, 3, (1, 2)), nn.BatchNorm2d(3))
    numbers = torch.arange(24, dtype=torch.float32)
    module[0].weight = nn.Parameter(numbers[:12].view(2, 3, 2, 1).permute(1, 0, 3, 2))
    module[0].bias = nn.Parameter(numbers[20:23])
    module[1].running_var = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    module[1].num_batches_tracked += 7
    return module


def save(path, module, legacy):
    torch.save(module, path, _use_new_zipfile_serialization=not legacy)


def main():
    module = nn.DataParallel(tiny_module())
    save(FOLDER / "torch_zip.pth", module, legacy=False)
    save(FOLDER / "torch_legacy.pth", module.state_dict(), legacy=True)


if __name__ == "__main__":
    main()
