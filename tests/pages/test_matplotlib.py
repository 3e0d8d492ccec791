import builtins

import pytest

from poolformer_jax import pages


def test_missing_matplotlib_is_named_with_its_remedy(monkeypatch):
    pages.require_matplotlib()
    importer = builtins.__import__

    def without(missing):
        def importing(name, *arguments):
            if name == "matplotlib":
                raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)
            return importer(name, *arguments)

        return importing

    monkeypatch.setattr(builtins, "__import__", without("matplotlib"))
    with pytest.raises(ImportError, match=r"need Matplotlib: pip install .*\[report\]"):
        pages.require_matplotlib()
    # Something that Matplotlib itself misses is no reason to install it.
    monkeypatch.setattr(builtins, "__import__", without("kiwisolver"))
    with pytest.raises(ModuleNotFoundError, match="kiwisolver"):
        pages.require_matplotlib()
