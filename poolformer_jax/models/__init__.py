"""The Poolformer: configuration, backbone of nested SkipBlocks, and the autoregressive model."""
