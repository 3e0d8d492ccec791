"""The systems that Poolformer is compared with."""
