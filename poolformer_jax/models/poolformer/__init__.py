"""The Poolformer: configuration, backbone of nested SkipBlocks, autoregressive model."""
