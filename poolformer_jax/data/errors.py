"""What goes wrong with data while they are being read."""


class UnreadableClipError(OSError):
    """A clip of an open data set; the message says which, and what to do."""
