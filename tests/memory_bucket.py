"""A bucket in this process: a file system in memory stands in for gs://."""

from fsspec.implementations.memory import MemoryFileSystem


class Bucket(MemoryFileSystem):
    """Files in memory under gs:// names; may be unplugged."""

    protocol = ("gcs", "gs")
    store = {}
    pseudo_dirs = [""]
    down = False

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(str(path).removeprefix("gs://"))

    def _open(self, path, mode="rb", **kwargs):
        if type(self).down:
            raise ConnectionResetError("unplugged")
        return super()._open(path, mode, **kwargs)
