"""Self-contained HTML pages with plots and audio players; one file a page."""


def require_matplotlib() -> None:
    """Raises ImportError with the remedy where Matplotlib is missing, which all pages need."""
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        raise ImportError(
            "plots and pages need Matplotlib: pip install 'poolformer_jax[report]', or in a clone "
            "pip install -e '.[report]'"
        ) from error
