"""The published classifier's tensors in this project's classifier."""

import functools
import pathlib
import re
import shutil

import jax
import numpy as np
import pytest

from launch.import_classifier import POSITIONAL
from poolformer_jax.classifier.config import ClassifierConfig
from poolformer_jax.classifier.files import load_classifier
from poolformer_jax.classifier.network import classify
from poolformer_jax.classifier.torch_import.checkpoint import read_torch_tensors
from poolformer_jax.classifier.torch_import.resnext import import_resnext
from tests.classifier.resnext_oracle import random_tensors, resnext, tensor_shapes
from tests.classifier.torch_import.torch_files import write_state_dict
from tests.launch.processes import call, mistake

CONFIG = ClassifierConfig(kind="resnext29_8x64d")


@pytest.fixture(scope="module")
def tensors():
    return random_tensors()


@pytest.fixture(scope="module")
def compiled_classify():
    return jax.jit(functools.partial(classify, CONFIG))


def random_mels(batch):
    """DB between -80 and 0, neither symmetric nor periodic."""
    rng = np.random.default_rng(1)
    return (-80 * rng.uniform(size=(batch, 32, 32)) ** 2).astype(np.float32)


def test_equals_a_forward_pass_in_numpy(tensors, compiled_classify):
    mels = random_mels(1)
    logits, features, _ = compiled_classify(*import_resnext(CONFIG, tensors), mels)
    for actual, expected in zip((logits, features), resnext(tensors, mels[0]), strict=True):
        # Float32 sums of up to 2,304 terms, thirty in a row: 4e-7 of the largest was measured.
        assert abs(actual[0] - expected).max() < 1e-5 * abs(expected).max()


def test_faults_are_listed(tensors):
    wrong = {f"module.{name}": array for name, array in tensors.items()}
    del wrong["module.bn_1.bias"]
    wrong["module.fc.weight"] = wrong["module.bn_1.weight"]
    wrong["module.conv_1_3x3.weight"] = np.zeros((64, 3, 3, 3), np.float32)
    wrong["module.classifier.weight"] = np.zeros((12, 1024), np.float32)
    wrong["module.classifier.bias"] = np.full(10, np.nan, np.float32)
    with pytest.raises(ValueError, match="these are not the tensors of a ResNeXt-29") as error:
        import_resnext(CONFIG, wrong)
    assert str(error.value).split("; ")[1:] == [
        "missing: bn_1.bias",
        "unknown: 'fc.weight'",
        "unsuitable: classifier.bias is not finite, "
        "classifier.weight has shape (12, 1024), not (10, 1024), "
        "conv_1_3x3.weight has shape (64, 3, 3, 3), not (64, 1, 3, 3)",
    ]


def test_every_tensor_is_needed_but_the_counters():
    needed = [name for name in tensor_shapes() if not name.endswith("num_batches_tracked")]
    with pytest.raises(ValueError, match=f"missing: .* and {len(needed) - 10} more$"):
        import_resnext(CONFIG, {})


@pytest.mark.slow
def test_binary_imports_a_checkpoint(tensors, tmp_path, capsys):
    write_state_dict(tmp_path / "resnext.pth", tensors)
    flags = [str(tmp_path / "resnext.pth"), f"--workdir={tmp_path / 'classifier'}"]
    call("import_classifier", *flags, "--mel_padding=constant", positional=POSITIONAL)
    printed = capsys.readouterr().out
    assert "resnext29_8x64d, 34,425,546 parameters, classes zero, one, two," in printed
    loaded = load_classifier(tmp_path / "classifier")
    assert loaded.config == ClassifierConfig(kind="resnext29_8x64d", mel_padding="constant")
    assert loaded.source["imported_from"] == "resnext.pth"
    jax.tree.map(
        np.testing.assert_array_equal,
        (loaded.params, loaded.stats),
        import_resnext(CONFIG, tensors),
    )


def test_binary_ends_in_one_line_for_another_file(tmp_path):
    shutil.copy(pathlib.Path(__file__).parent / "torch_zip.pth", tmp_path)
    flags = [str(tmp_path / "torch_zip.pth"), f"--workdir={tmp_path / 'classifier'}"]
    message = mistake("import_classifier", *flags, positional=POSITIONAL)
    assert re.fullmatch(r"error: .* ResNeXt-29 8x64d; missing: .*; unknown: '0.bias', .*", message)
    assert not (tmp_path / "classifier").exists()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "the checkpoint's file must be given, without --"),
        (["a.pth", "b.pth"], r"unknown arguments \['b.pth'\]; flags start with --"),
    ],
)
def test_binary_takes_one_file(tmp_path, files, message):
    flags = [*files, f"--workdir={tmp_path}"]
    found = mistake("import_classifier", *flags, positional=POSITIONAL)
    assert re.fullmatch(f"error: {message}", found)


def test_binary_refuses_harmful_and_missing_files_and_keeps_what_is_there(tmp_path):
    (tmp_path / "evil.pth").write_bytes(b"cposix\nsystem\n(X\x04\x00\x00\x00exittR.")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "classifier.json").touch()
    (tmp_path / "arrays").mkdir()
    (tmp_path / "arrays" / "classifier.npz").touch()
    for source, workdir, message in (
        ("evil.pth", "new", r".*evil.pth is refused, .* it names posix.system; .*"),
        ("none.pth", "new", r".*No such file.*none.pth'"),
        ("evil.pth", "arrays", r".*arrays/classifier.npz is in the way and is kept: .*"),
        ("evil.pth", "full", r".*full holds a classifier already; name another --workdir"),
    ):
        flags = [str(tmp_path / source), f"--workdir={tmp_path / workdir}"]
        found = mistake("import_classifier", *flags, positional=POSITIONAL)
        assert re.fullmatch(f"error: {message}", found)
    assert not (tmp_path / "new").exists()


@pytest.mark.nightly
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.filterwarnings("ignore")  # PyTorch warns of a class whose source it cannot find.
def test_agrees_with_pytorch(legacy, tensors, tmp_path, compiled_classify):
    torch = pytest.importorskip("torch")
    from tests.classifier.torch_import import torch_reference

    module = torch_reference.resnext(tensors)
    mels = random_mels(4)
    with torch.no_grad():
        expected = [output.numpy() for output in module(torch.from_numpy(mels))]
    torch_reference.save(tmp_path / "resnext.pth", torch.nn.DataParallel(module), legacy)
    imported = import_resnext(CONFIG, read_torch_tensors(tmp_path / "resnext.pth"))
    logits, features, _ = compiled_classify(*imported, mels)
    # Both sum in float32, each in its order: 6e-6 was measured for features up to 13.
    np.testing.assert_allclose(features, expected[1], atol=1e-4)
    np.testing.assert_allclose(logits, expected[0], atol=1e-4)
