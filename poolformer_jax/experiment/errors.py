"""Mistakes of the user: found before anything expensive starts, told in a line or two."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from poolformer_jax.buckets import is_of_a_bucket
from poolformer_jax.disk_full import with_advice


class UserError(Exception):
    """Something that the user can mend, and how; binaries print it without a traceback."""


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Turns errors that name the user's mistake into `UserError`.

    For the checks before anything expensive starts, whose messages are written for the user; later
    errors keep their traceback.
    """
    try:
        yield
    except (ValueError, OSError, ImportError) as error:
        raise UserError(with_advice(error)) from error
    except Exception as error:
        if is_of_a_bucket(error):
            raise UserError(
                f"the bucket cannot be used ({type(error).__name__}: {error}); check its name and "
                "your credentials, for Google's with: gcloud auth application-default login"
            ) from error
        raise
