from tests.layers.conftest import quick_compilation

__all__ = ["quick_compilation"]
